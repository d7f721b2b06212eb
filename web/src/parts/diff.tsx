// Two programs side by side, or one below the other where there is no room; what did not change is folded.
import { diffLines } from "diff";
import { useMemo, useState } from "preact/hooks";
import { highlighted } from "./text.js";

interface Side { number: number; html: string }
interface Pair { left: Side | null; right: Side | null; changed: boolean }

const AROUND = 3;

export function Diff({ before, after, names, wide }: { before: string; after: string; names: [string, string]; wide: boolean }) {
  const { pairs, added, removed } = useMemo(() => paired(before, after), [before, after]);
  const [open, setOpen] = useState<ReadonlySet<number>>(new Set());
  if (!added && !removed) return <p class="empty">The programs are the same.</p>;
  const blocks = folded(pairs, open);
  return (
    <div>
      <p class="small"><span class="good">+{added}</span> <span class="bad">−{removed}</span> lines</p>
      <div class={`diff ${wide ? "two" : "one"}`} tabIndex={0} role="region" aria-label={`Difference between ${names[0]} and ${names[1]}`}>
        <table>
          {wide && <colgroup><col style={{ width: "44px" }} /><col /><col style={{ width: "44px" }} /><col /></colgroup>}
          {wide && <thead><tr><th scope="col" colSpan={2}>{names[0]}</th><th scope="col" colSpan={2}>{names[1]}</th></tr></thead>}
          <tbody>
            {blocks.map((block) => (block.hidden
              ? <tr key={`f${block.from}`} class="fold"><td colSpan={wide ? 4 : 3}><button onClick={() => setOpen(new Set([...open, block.from]))}>Show {block.hidden} unchanged lines</button></td></tr>
              : wide ? <Two key={block.from} pair={pairs[block.from]!} /> : <One key={block.from} pair={pairs[block.from]!} />))}
          </tbody>
        </table>
      </div>
    </div>
  );
}

function Two({ pair: { left, right, changed } }: { pair: Pair }) {
  return (
    <tr>
      <td class="line">{left?.number}</td><Text side={left} kind={changed && left ? "removed" : ""} />
      <td class="line">{right?.number}</td><Text side={right} kind={changed && right ? "added" : ""} />
    </tr>
  );
}

function One({ pair: { left, right, changed } }: { pair: Pair }) {
  if (!changed) return <tr><td class="line">{left!.number}</td><td class="line">{right!.number}</td><Text side={right} kind="" /></tr>;
  return (
    <>
      {left && <tr><td class="line">{left.number}</td><td class="line" /><Text side={left} kind="removed" /></tr>}
      {right && <tr><td class="line" /><td class="line">{right.number}</td><Text side={right} kind="added" /></tr>}
    </>
  );
}

function Text({ side, kind }: { side: Side | null; kind: string }) {
  const mark = kind === "added" ? "+" : kind === "removed" ? "−" : " ";
  return <td class={`text ${kind}`}>{side && <><span class="mark" aria-label={kind || undefined}>{mark}</span><code dangerouslySetInnerHTML={{ __html: side.html }} /></>}</td>;
}

function paired(before: string, after: string): { pairs: Pair[]; added: number; removed: number } {
  const [old, fresh] = [highlighted(before.replace(/\n$/, "")), highlighted(after.replace(/\n$/, ""))];
  const pairs: Pair[] = [];
  let left = 0, right = 0, added = 0, removed = 0;
  const take = (from: string[], place: number): Side => ({ number: place + 1, html: from[place] ?? "" });
  const parts = diffLines(before, after);
  for (let place = 0; place < parts.length; place++) {
    const part = parts[place]!;
    if (!part.added && !part.removed) {
      for (let n = 0; n < part.count!; n++) pairs.push({ left: take(old, left++), right: take(fresh, right++), changed: false });
      continue;
    }
    const gone = part.removed ? part.count! : 0;
    const next = part.removed ? parts[place + 1] : part;
    const came = next?.added ? next.count! : 0;
    if (part.removed && came) place++;
    for (let n = 0; n < Math.max(gone, came); n++) {
      pairs.push({ left: n < gone ? take(old, left++) : null, right: n < came ? take(fresh, right++) : null, changed: true });
    }
    added += came;
    removed += gone;
  }
  return { pairs, added, removed };
}

/** Runs of unchanged lines become one row, but for a few around each change. */
function folded(pairs: Pair[], open: ReadonlySet<number>): { from: number; hidden: number }[] {
  const near = new Set<number>();
  pairs.forEach((pair, place) => {
    if (pair.changed) for (let n = place - AROUND; n <= place + AROUND; n++) near.add(n);
  });
  const blocks: { from: number; hidden: number }[] = [];
  for (let place = 0; place < pairs.length; place++) {
    if (near.has(place)) { blocks.push({ from: place, hidden: 0 }); continue; }
    let end = place;
    while (end + 1 < pairs.length && !near.has(end + 1)) end++;
    if (end - place < 2 || open.has(place)) for (let n = place; n <= end; n++) blocks.push({ from: n, hidden: 0 });
    else blocks.push({ from: place, hidden: end - place + 1 });
    place = end;
  }
  return blocks;
}
