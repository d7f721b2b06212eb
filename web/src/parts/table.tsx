// A virtualised table of candidates: only visible rows are rendered; cards on narrow windows.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { address, go } from "../address.js";
import { isBetter, measureOf, measuresOf, formatted, type Measure } from "../measures.js";
import type { Row } from "../records.js";
import { CandidateLink, Chip } from "./link.js";

const ROW_HEIGHT = 33, CARD_HEIGHT = 104, OVERSCAN = 8;
const DEFAULT_COLUMNS = ["fitness", "loss", "train_loss", "benchmark", "judge", "parameters", "seconds"];
const TEXTS = ["state", "kind", "stage", "components", "parent", "outcome", "worker", "reason"] as const;
type Text = (typeof TEXTS)[number];

export interface Columns { measures: Measure[]; texts: Text[]; all: { key: string; label: string }[] }

/** The requested columns, by default the usual ones, without empty columns. */
export function columnsOf(all: readonly Row[], requested: string): Columns {
  const measures = measuresOf(all).filter((measure) => measure.key !== "number");
  const texts = TEXTS.filter((key) => {
    const values = new Set(all.map((row) => String(row[key] ?? "")));
    return values.size > 1 || (key === "components" && !values.has(""));
  });
  const selected = requested ? requested.split(",") : [...DEFAULT_COLUMNS, "state", "components", "outcome"];
  return {
    measures: measures.filter((measure) => selected.includes(measure.key)), texts: texts.filter((key) => selected.includes(key)),
    all: [...measures.map(({ key, label }) => ({ key, label })), ...texts.map((key) => ({ key, label: key }))],
  };
}

export function sorted(all: readonly Row[], sort: string): Row[] {
  const key = sort.replace(/^-/, "") || "fitness";
  const backwards = sort.startsWith("-");
  const flip = backwards ? -1 : 1;
  if (key === "name" || (TEXTS as readonly string[]).includes(key)) {
    const text = (row: Row) => String(key === "components" ? (row.components ?? []).join(" ") : row[key as keyof Row] ?? "");
    return [...all].sort((a, b) => flip * text(a).localeCompare(text(b)) || a.number - b.number);
  }
  const measure = measureOf(key);
  return [...all].sort((a, b) => {
    const [x, y] = [measure.value(a), measure.value(b)];
    if (x === undefined || y === undefined) return x === y ? a.number - b.number : x === undefined ? 1 : -1;
    return x === y ? a.number - b.number : flip * (isBetter(measure, x, y) === (measure.better !== null) ? -1 : 1);
  });
}

interface Props { rows: readonly Row[]; columns: Columns; ticked?: ReadonlySet<string>; onTick?: (id: string) => void; label: string; height?: number }

export function CandidateTable({ rows, columns, ticked, onTick, label, height }: Props) {
  const { sort, candidate } = address.value;
  const box = useRef<HTMLDivElement>(null);
  const [top, setTop] = useState(0);
  const [size, setSize] = useState({ width: 1000, height: 600 });
  const ordered = useMemo(() => sorted(rows, sort), [rows, sort]);
  useEffect(() => {
    const observer = new ResizeObserver(() => setSize({ width: box.current!.clientWidth, height: box.current!.clientHeight }));
    observer.observe(box.current!);
    return () => observer.disconnect();
  }, []);
  useEffect(() => { box.current!.scrollTop = 0; setTop(0); }, [sort]);
  const chosen = candidate.split("..")[0];
  useEffect(() => {
    const index = ordered.findIndex((row) => row.id === chosen);
    const at = index * (cards ? CARD_HEIGHT : ROW_HEIGHT);
    const { scrollTop, clientHeight } = box.current!;
    if (index >= 0 && (at < scrollTop || at > scrollTop + clientHeight - 3 * ROW_HEIGHT)) box.current!.scrollTop = at - clientHeight / 2;
  }, [chosen]);
  const cards = size.width < 560;
  const rowHeight = cards ? CARD_HEIGHT : ROW_HEIGHT;
  const from = Math.max(0, Math.floor(top / rowHeight) - OVERSCAN);
  const to = Math.min(ordered.length, Math.ceil((top + size.height) / rowHeight) + OVERSCAN);
  const visibleRows = ordered.slice(from, to);
  const style = { height: height ? `${height}px` : undefined };
  const onScroll = (event: Event) => setTop((event.currentTarget as HTMLElement).scrollTop);
  const nothing = !ordered.length && <p class="empty">{address.value.filter ? "No candidate passes the filter." : "No candidate to show yet."}</p>;
  if (cards) {
    return (
      <div class="rows" ref={box} style={style} onScroll={onScroll} tabIndex={0} role="region" aria-label={label}>
        <ol class="cards" style={{ paddingTop: from * CARD_HEIGHT, paddingBottom: (ordered.length - to) * CARD_HEIGHT }}>
          {visibleRows.map((row) => (
            <li key={row.id} style={{ height: CARD_HEIGHT }} aria-setsize={ordered.length} aria-posinset={ordered.indexOf(row) + 1}>
              <div class="card-head">
                {onTick && <Tick row={row} ticked={ticked!} onTick={onTick} />}
                <CandidateLink id={row.id} name={row.name} />
                <Chip text={row.outcome ?? row.state} />
              </div>
              <dl>{columns.measures.slice(0, 4).map((measure) => <div key={measure.key}><dt>{measure.label}</dt><dd>{formatted(measure, row)}</dd></div>)}</dl>
            </li>
          ))}
        </ol>
        {nothing}
      </div>
    );
  }
  return (
    <div class="rows" ref={box} style={style} onScroll={onScroll} tabIndex={0} role="region" aria-label={label}>
      <table aria-rowcount={ordered.length + 1}>
        <thead>
          <tr aria-rowindex={1}>
            {onTick && <th scope="col"><span class="sr">show curve</span></th>}
            <th scope="col" class="num">#</th>
            <Head name="name" label="name" sort={sort} />
            {columns.measures.map((measure) => <Head key={measure.key} name={measure.key} label={measure.label} title={measure.unit} sort={sort} num />)}
            {columns.texts.map((key) => <Head key={key} name={key} label={key} sort={sort} />)}
            <td class="rest" />
          </tr>
        </thead>
        <tbody>
          {from > 0 && <tr class="space" aria-hidden="true"><td style={{ height: from * ROW_HEIGHT }} /></tr>}
          {visibleRows.map((row, index) => (
            <tr
              key={row.id} aria-rowindex={from + index + 2} class={row.id === chosen ? "chosen" : ""} style={{ height: ROW_HEIGHT }}
              onClick={(event) => { if (!(event.target as HTMLElement).closest("a, input, label")) go({ candidate: row.id }); }}
            >
              {onTick && <td><Tick row={row} ticked={ticked!} onTick={onTick} /></td>}
              <td class="num quiet">{from + index + 1}</td>
              <td class="name"><CandidateLink id={row.id} name={row.name} /></td>
              {columns.measures.map((measure) => (
                <td key={measure.key} class="num" title={measure.key === "fitness" && row.fitness_low !== undefined ? `95 %: ${row.fitness_low.toFixed(3)} to ${row.fitness_high!.toFixed(3)}` : undefined}>{formatted(measure, row)}</td>
              ))}
              {columns.texts.map((key) => <td key={key} class="text"><Cell row={row} name={key} /></td>)}
              <td class="rest" />
            </tr>
          ))}
          {to < ordered.length && <tr class="space" aria-hidden="true"><td style={{ height: (ordered.length - to) * ROW_HEIGHT }} /></tr>}
        </tbody>
      </table>
      {nothing}
    </div>
  );
}

function Tick({ row, ticked, onTick }: { row: Row; ticked: ReadonlySet<string>; onTick: (id: string) => void }) {
  return <input type="checkbox" checked={ticked.has(row.id)} aria-label={`Show the curve of ${row.name}`} onChange={() => onTick(row.id)} />;
}

function Cell({ row, name }: { row: Row; name: Text }) {
  if (name === "components") return <>{(row.components ?? []).join(", ")}</>;
  if (name === "parent") return row.parent ? <CandidateLink id={row.parent} short /> : <>–</>;
  if (name === "state" || name === "outcome") return row[name] ? <Chip text={row[name]!} /> : <>–</>;
  return <>{row[name] ?? "–"}</>;
}

function Head({ name, label, title, sort, num }: { name: string; label: string; title?: string; sort: string; num?: boolean }) {
  const current = (sort.replace(/^-/, "") || "fitness") === name;
  const direction = !current ? undefined : sort.startsWith("-") ? "descending" : "ascending";
  return (
    <th scope="col" class={num ? "num" : ""} aria-sort={direction}>
      <button class="sorter" title={title ? `${title}; click to sort` : "click to sort"} onClick={() => go({ sort: current && !sort.startsWith("-") ? `-${name}` : name }, true)}>
        {label}<span aria-hidden="true">{current ? (sort.startsWith("-") ? " ▴" : " ▾") : ""}</span>
      </button>
    </th>
  );
}
