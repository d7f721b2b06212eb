// The difference of two programs, side by side or unified; unchanged lines are folded.
import { diffLines } from "diff";
import { useMemo, useState } from "preact/hooks";
import { highlighted } from "./text.js";

interface Side { number: number; html: string }
interface Pair { left: Side | null; right: Side | null; changed: boolean }

const CONTEXT_LINES = 3;

export function Diff({ before, after, names, wide }: { before: string; after: string; names: [string, string]; wide: boolean }) {
  const { pairs, added, removed } = useMemo(() => pairLines(before, after), [before, after]);
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
              : wide ? <SplitRow key={block.from} pair={pairs[block.from]!} /> : <UnifiedRows key={block.from} pair={pairs[block.from]!} />))}
          </tbody>
        </table>
      </div>
    </div>
  );
}

function SplitRow({ pair: { left, right, changed } }: { pair: Pair }) {
  return (
    <tr>
      <td class="line">{left?.number}</td><Text side={left} kind={changed && left ? "removed" : ""} />
      <td class="line">{right?.number}</td><Text side={right} kind={changed && right ? "added" : ""} />
    </tr>
  );
}

function UnifiedRows({ pair: { left, right, changed } }: { pair: Pair }) {
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

function pairLines(before: string, after: string): { pairs: Pair[]; added: number; removed: number } {
  const [oldLines, newLines] = [highlighted(before.replace(/\n$/, "")), highlighted(after.replace(/\n$/, ""))];
  const pairs: Pair[] = [];
  let left = 0, right = 0, added = 0, removed = 0;
  const sideOf = (lines: string[], index: number): Side => ({ number: index + 1, html: lines[index] ?? "" });
  const parts = diffLines(before, after);
  for (let index = 0; index < parts.length; index++) {
    const part = parts[index]!;
    if (!part.added && !part.removed) {
      for (let n = 0; n < part.count!; n++) pairs.push({ left: sideOf(oldLines, left++), right: sideOf(newLines, right++), changed: false });
      continue;
    }
    const removedLines = part.removed ? part.count! : 0;
    const next = part.removed ? parts[index + 1] : part;
    const addedLines = next?.added ? next.count! : 0;
    if (part.removed && addedLines) index++;
    for (let n = 0; n < Math.max(removedLines, addedLines); n++) {
      pairs.push({ left: n < removedLines ? sideOf(oldLines, left++) : null, right: n < addedLines ? sideOf(newLines, right++) : null, changed: true });
    }
    added += addedLines;
    removed += removedLines;
  }
  return { pairs, added, removed };
}

/** Fold unchanged lines into one row each, except for a few lines of context around each change. */
function folded(pairs: Pair[], open: ReadonlySet<number>): { from: number; hidden: number }[] {
  const near = new Set<number>();
  pairs.forEach((pair, index) => {
    if (pair.changed) for (let n = index - CONTEXT_LINES; n <= index + CONTEXT_LINES; n++) near.add(n);
  });
  const blocks: { from: number; hidden: number }[] = [];
  for (let index = 0; index < pairs.length; index++) {
    if (near.has(index)) { blocks.push({ from: index, hidden: 0 }); continue; }
    let end = index;
    while (end + 1 < pairs.length && !near.has(end + 1)) end++;
    if (end - index < 2 || open.has(index)) for (let n = index; n <= end; n++) blocks.push({ from: n, hidden: 0 });
    else blocks.push({ from: index, hidden: end - index + 1 });
    index = end;
  }
  return blocks;
}
