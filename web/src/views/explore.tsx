// Charts: a scatter plot with its front, parallel coordinates, effects of components, a histogram.
import * as Plot from "@observablehq/plot";
import { brush, brushY } from "d3-brush";
import { scaleLinear, scalePoint } from "d3-scale";
import { select } from "d3-selection";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { address, go } from "../address.js";
import { filtered, rows, status } from "../archive.js";
import { isBetter, measureOf, measuresOf, type Measure } from "../measures.js";
import { objectivesOf, progressOf } from "../objectives.js";
import { Lines, short } from "../parts/lines.js";
import { CandidateLink } from "../parts/link.js";
import { CandidateTable, columnsOf } from "../parts/table.js";
import type { Row } from "../records.js";
import { MIN_GROUP, quantile, welch, type Effect } from "../statistics.js";
import { category, dark, colourScale, cssColour } from "../theme.js";
import { Choice } from "./overview.js";

export function Explore() {
  const all = filtered.value;
  const known = useMemo(() => measuresOf(rows.value), [rows.value]);
  const [picked, setPicked] = useState<ReadonlySet<string> | null>(null);
  const defaults = ["fitness", "loss", "train_loss", "benchmark", "parameters", "number"].filter((key) => known.some((measure) => measure.key === key));
  const objectives = useMemo(() => objectivesOf(status.value), [status.value]);
  const sized = rows.value.filter((row) => row.parameters !== undefined).length;
  const x = measureOf(address.value.x || objectives[1]?.key || (sized > rows.value.length / 2 ? "parameters" : "number"));
  const y = measureOf(address.value.y || objectives[0]?.key || defaults[0] || "fitness");
  const columns = useMemo(() => columnsOf(rows.value, ""), [rows.value]);
  const options = known.map((measure) => [measure.key, measure.label] as const);
  const chosen = useMemo(() => (picked ? all.filter((row) => picked.has(row.id)) : all), [all, picked]);
  useEffect(() => setPicked(null), [x.key, y.key]);
  return (
    <div class="explore">
      <section class="card" aria-label="Scatter">
        <div class="head">
          <h2>{y.label} against {x.label}</h2>
          <div class="choices">
            <Choice label="x" value={x.key} options={options} onChange={(key) => go({ x: key }, true)} />
            <Choice label="y" value={y.key} options={options} onChange={(key) => go({ y: key }, true)} />
          </div>
        </div>
        <Scatter rows={all} x={x} y={y} onPick={setPicked} />
      </section>
      <div class="column">
        {objectives.length > 1 && <Front objectives={objectives} />}
        <Effects rows={all} measure={y} />
        <Histogram rows={chosen} measure={y} />
      </div>
      <Parallel rows={all} known={known} measure={y} picked={picked} onPick={setPicked} />
      <section class="card wide-card" aria-label="The choice">
        <div class="head">
          <h2>{picked ? `${chosen.length} chosen` : `All ${all.length}`}</h2>
          {picked && <button onClick={() => setPicked(null)}>Forget the choice</button>}
        </div>
        <CandidateTable rows={chosen} columns={columns} label="Chosen candidates" height={340} />
      </section>
    </div>
  );
}

/** The non-dominated candidates in all objectives of the run, and the hypervolume. */
function Front({ objectives }: { objectives: readonly Measure[] }) {
  const progress = useMemo(() => progressOf(rows.value, objectives), [rows.value, objectives]);
  const names = objectives.map((measure) => measure.label).join(", ");
  const end = progress?.volumes.at(-1)?.[1];
  const lines = useMemo(() => [{ label: "hypervolume", points: progress?.volumes ?? [], colour: category(0), width: 2.5, stepped: true }], [progress]);
  return (
    <section class="card" aria-label="Front">
      <div class="head"><h2>Front in {names}</h2></div>
      {progress && end !== undefined
        ? <>
            <Lines
              lines={lines} x="candidates in the order of the run" y="hypervolume" height={200}
              label={`Hypervolume over the run, now ${short(end)}`}
            />
            <p class="quiet small">{progress.front.length} candidates that no other dominates: {progress.front.map((row, holderRef) => <>{holderRef > 0 && ", "}<CandidateLink id={row.id} /></>)}. Hypervolume: the share of the box between zero and the worst baseline in each objective.</p>
          </>
        : <p class="empty">No baseline is measured in all objectives yet.</p>}
    </section>
  );
}

interface Dot { row: Row; x: number; y: number }

/** The non-dominated points in both measures, ordered by x. */
export function front(dots: readonly Dot[], x: Measure, y: Measure): Dot[] {
  if (!x.better || !y.better) return [];
  const ordered = [...dots].sort((a, b) => (a.x === b.x ? (isBetter(y, a.y, b.y) ? -1 : 1) : isBetter(x, a.x, b.x) ? -1 : 1));
  const kept: Dot[] = [];
  for (const dot of ordered) if (!kept.length || isBetter(y, dot.y, kept.at(-1)!.y)) kept.push(dot);
  return kept.sort((a, b) => a.x - b.x);
}

function useDrawing(make: (holder: HTMLElement, width: number) => void, parts: unknown[]) {
  const holderRef = useRef<HTMLDivElement>(null);
  const theme = dark.value;
  useEffect(() => {
    const holder = holderRef.current;
    if (!holder) return undefined; // not rendered yet
    let width = 0;
    const observer = new ResizeObserver(() => {
      if (Math.abs(holder.clientWidth - width) < 2) return;
      width = holder.clientWidth;
      holder.replaceChildren();
      make(holder, Math.max(260, width));
      holder.querySelector("svg")?.setAttribute("aria-hidden", "true"); // the holder has a label
    });
    observer.observe(holder);
    return () => observer.disconnect();
  }, [...parts, theme]);
  return holderRef;
}

const tickFormat = (measure: Measure) => (value: number) => (measure.key === "number" ? String(value) : measure.format(value).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, ""));

function Scatter({ rows: all, x, y, onPick }: { rows: readonly Row[]; x: Measure; y: Measure; onPick: (ids: ReadonlySet<string> | null) => void }) {
  const dots = useMemo(() => all.flatMap((row): Dot[] => {
    const [a, b] = [x.value(row), y.value(row)];
    return a === undefined || b === undefined ? [] : [{ row, x: a, y: b }];
  }), [all, x, y]);
  const best = useMemo(() => front(dots, x, y), [dots, x, y]);
  const holderRef = useDrawing((holder, width) => {
    const chart = Plot.plot({
      width, height: 360, marginLeft: 56, marginBottom: 40, style: { fontSize: "12px", background: "transparent" },
      x: { label: `${x.label}${x.unit ? ` (${x.unit})` : ""}`, tickFormat: tickFormat(x), nice: true, grid: true },
      y: { label: y.label, tickFormat: tickFormat(y), nice: true, grid: true },
      marks: [
        Plot.dot(dots, { x: "x", y: "y", r: dots.length > 400 ? 2.5 : 4, fill: cssColour("accent"), fillOpacity: 0.45 }),
        Plot.line(best, { x: "x", y: "y", stroke: category(1), strokeWidth: 1.5, strokeDasharray: "5 3" }),
        Plot.dot(best, { x: "x", y: "y", r: 5, fill: category(1), stroke: cssColour("card") }),
        Plot.tip(dots, Plot.pointer({ x: "x", y: "y", title: (dot: Dot) => `${dot.row.name} (${dot.row.id})\n${y.label} ${y.format(dot.y)}\n${x.label} ${x.format(dot.x)}`, fill: cssColour("card") })),
      ],
    });
    holder.append(chart);
    const xScale = chart.scale("x")!, yScale = chart.scale("y")!;
    const [left, right] = [...xScale.range!] as [number, number], [bottom, top] = [...yScale.range!] as [number, number];
    const selection = brush<unknown>().extent([[left, top], [right, bottom]]).on("end", (event: { selection: [[number, number], [number, number]] | null; sourceEvent: Event | null }) => {
      if (!event.sourceEvent) return;
      if (!event.selection) { onPick(null); return; }
      const [[x0, y0], [x1, y1]] = event.selection;
      const inside = dots.filter((dot) => {
        const [a, b] = [xScale.apply(dot.x) as number, yScale.apply(dot.y) as number];
        return a >= x0 && a <= x1 && b >= y0 && b <= y1;
      });
      onPick(new Set(inside.map((dot) => dot.row.id)));
    });
    const layer = select(chart as SVGSVGElement).insert("g", "g[aria-label=tip]").attr("class", "brush").call(selection as never);
    layer.selectAll(".overlay").on("click.open", (event: MouseEvent) => {
      const [px, py] = [event.offsetX, event.offsetY];
      const closest = dots.reduce<{ dot: Dot; distance: number } | null>((nearest, dot) => {
        const distance = Math.hypot((xScale.apply(dot.x) as number) - px, (yScale.apply(dot.y) as number) - py);
        return distance < 10 && (!nearest || distance < nearest.distance) ? { dot, distance } : nearest;
      }, null);
      if (closest) go({ candidate: closest.dot.row.id });
    });
  }, [dots, best, x, y]);
  if (dots.length < 2) return <p class="empty">Fewer than two candidates have both measures.</p>;
  return (
    <>
      <div class="plot" role="img" aria-label={`${dots.length} candidates: ${y.label} against ${x.label}; ${best.length} are not dominated`} ref={holderRef} style={{ minHeight: 360 }} />
      <p class="quiet small">{dots.length.toLocaleString("en")} candidates. {best.length ? `Orange: the ${best.length} that no other beats in both (better is ${x.better === "low" ? "less" : "more"} ${x.label}, ${y.better === "low" ? "less" : "more"} ${y.label}). ` : ""}Drag to choose some for the table below; click one to open it.</p>
    </>
  );
}

function Effects({ rows: all, measure }: { rows: readonly Row[]; measure: Measure }) {
  const effects = useMemo(() => {
    const measured = all.filter((row) => measure.value(row) !== undefined && row.components?.length && row.kind !== "ablation");
    const kinds = [...new Set(measured.flatMap((row) => row.components!))];
    return kinds.flatMap((kind): (Effect & { kind: string })[] => {
      const has = measured.filter((row) => row.components!.includes(kind)).map((row) => measure.value(row)!);
      const not = measured.filter((row) => !row.components!.includes(kind)).map((row) => measure.value(row)!);
      const effect = welch(has, not);
      return effect ? [{ kind, ...effect }] : [];
    }).sort((a, b) => (measure.better === "low" ? a.effect - b.effect : b.effect - a.effect)).slice(0, 24);
  }, [all, measure]);
  const holderRef = useDrawing((holder, width) => {
    if (!effects.length) return;
    const colour = (effect: Effect) => (effect.low <= 0 && effect.high >= 0 ? cssColour("quiet") : (effect.effect > 0) === (measure.better !== "low") ? cssColour("good") : cssColour("bad"));
    holder.append(Plot.plot({
      width, height: 56 + 22 * effects.length, marginLeft: Math.min(190, width * 0.42), marginBottom: 40, style: { fontSize: "12px", background: "transparent" },
      x: { label: `difference of mean ${measure.label}: with − without`, grid: true }, y: { label: null, domain: effects.map((effect) => effect.kind) },
      marks: [
        Plot.ruleX([0], { stroke: cssColour("ink") }),
        Plot.ruleY(effects, { y: "kind", x1: "low", x2: "high", stroke: colour, strokeWidth: 2.5 }),
        Plot.dot(effects, { y: "kind", x: "effect", r: 4, fill: colour }),
        Plot.tip(effects, Plot.pointerY({ y: "kind", x: "effect", fill: cssColour("card"), title: (effect: Effect & { kind: string }) => `${effect.kind}: ${effect.effect.toFixed(4)} [${effect.low.toFixed(4)}, ${effect.high.toFixed(4)}]\n${effect.with} with, ${effect.without} without` })),
      ],
    }));
  }, [effects, measure]);
  if (!all.some((row) => row.components?.length)) return null;
  return (
    <section class="card" aria-label="Effects of components">
      <div class="head"><h2>Effects of components on {measure.label}</h2></div>
      {effects.length
        ? <><div class="plot" role="img" aria-label={`Difference of mean ${measure.label} with and without each of ${effects.length} components`} ref={holderRef} />
            <p class="quiet small">Welch's 95 % intervals, groups of {MIN_GROUP} and more. They describe what was searched: components come together with others, and nobody drew them at random. <code>asi-arch ablate</code> measures one alone.</p></>
        : <p class="empty">No component is known in {MIN_GROUP} candidates that have it and {MIN_GROUP} that have not.</p>}
    </section>
  );
}

function Histogram({ rows: all, measure }: { rows: readonly Row[]; measure: Measure }) {
  const values = useMemo(() => all.map(measure.value).filter((value): value is number => value !== undefined), [all, measure]);
  const holderRef = useDrawing((holder, width) => {
    if (values.length < 5) return;
    holder.append(Plot.plot({
      width, height: 260, marginLeft: 56, marginBottom: 40, style: { fontSize: "12px", background: "transparent" },
      x: { label: measure.label, tickFormat: tickFormat(measure) }, y: { label: "candidates", grid: true, tickFormat: (n: number) => (Number.isInteger(n) ? String(n) : "") },
      marks: [Plot.rectY(values, { ...Plot.binX({ y: "count" }, { x: (value: number) => value, thresholds: 30 }), fill: cssColour("accent"), inset: 0.5, tip: true }), Plot.ruleY([0])],
    }));
  }, [values, measure]);
  return (
    <section class="card" aria-label="Histogram">
      <div class="head"><h2>Distribution of {measure.label}</h2></div>
      {values.length < 5 ? <p class="empty">Fewer than five candidates have it.</p>
        : <div class="plot" role="img" aria-label={`Histogram of ${measure.label} over ${values.length} candidates`} ref={holderRef} />}
    </section>
  );
}

const AXES = ["number", "parameters", "seconds", "judge", "benchmark", "train_loss", "loss", "fitness"];

/** One line for each candidate over several measures and its most frequent components; each axis can be brushed. */
function Parallel({ rows: all, known, measure, picked, onPick }: { rows: readonly Row[]; known: Measure[]; measure: Measure; picked: ReadonlySet<string> | null; onPick: (ids: ReadonlySet<string> | null) => void }) {
  const parts = useMemo(() => {
    const counts = new Map<string, number>();
    for (const row of all) for (const kind of row.components ?? []) counts.set(kind, (counts.get(kind) ?? 0) + 1);
    return [...counts].filter(([, count]) => count < all.length).sort((a, b) => b[1] - a[1]).slice(0, 5).map(([kind]) => kind);
  }, [all]);
  const axes = useMemo(() => [
    ...AXES.filter((key) => known.some((entry) => entry.key === key)).map(measureOf),
    ...parts.map((kind): Measure => ({ key: `component:${kind}`, label: kind, unit: "", better: null, value: (row) => (row.components ? Number(row.components.includes(kind)) : undefined), format: (value) => (value ? "yes" : "no") })),
  ], [known, parts]);
  const measured = useMemo(() => all.filter((row) => axes.filter((axis) => axis.value(row) !== undefined).length > 2), [all, axes]);
  const holderRef = useDrawing((holder, width) => {
    const height = 300, top = 40, bottom = 24;
    const xScale = scalePoint<string>().domain(axes.map((axis) => axis.key)).range([60, width - 60]);
    const scales = axes.map((axis) => {
      const values = measured.map(axis.value).filter((value): value is number => value !== undefined);
      const [low, high] = [Math.min(...values), Math.max(...values)];
      const range: [number, number] = axis.better === "low" ? [top, height - bottom] : [height - bottom, top];
      return scaleLinear().domain(low === high ? [low - 1, high + 1] : [low, high]).range(range);
    });
    const canvas = document.createElement("canvas");
    canvas.width = width * devicePixelRatio;
    canvas.height = height * devicePixelRatio;
    canvas.style.cssText = `position:absolute;left:0;top:0;width:${width}px;height:${height}px`;
    holder.append(canvas);
    const context = canvas.getContext("2d")!;
    context.scale(devicePixelRatio, devicePixelRatio);
    const values = measured.map(measure.value).filter((value): value is number => value !== undefined).sort((a, b) => a - b);
    const ends = [quantile(values, 0.05), quantile(values, 0.95)] as const; // outliers must not compress the colour scale
    const [worst, best] = measure.better === "low" ? [ends[1], ends[0]] : ends;
    const colourOf = colourScale(worst, best);
    const limits = new Map<number, [number, number]>();
    const draw = () => {
      context.clearRect(0, 0, width, height);
      const inside = (row: Row) => [...limits].every(([index, [from, to]]) => {
        const value = axes[index]!.value(row);
        return value !== undefined && scales[index]!(value) >= from && scales[index]!(value) <= to;
      });
      const shown = limits.size ? measured.filter(inside) : picked ? measured.filter((row) => picked.has(row.id)) : measured;
      context.lineWidth = shown.length > 300 ? 0.8 : 1.4;
      context.globalAlpha = shown.length > 300 ? 0.25 : 0.7;
      for (const row of shown) {
        const value = measure.value(row);
        context.strokeStyle = value === undefined ? cssColour("strong") : colourOf(value);
        context.beginPath();
        let open = false;
        axes.forEach((axis, index) => {
          const at = axis.value(row);
          if (at === undefined) return; // not measured: the line skips this axis
          const [px, py] = [xScale(axis.key)!, scales[index]!(at)];
          if (open) context.lineTo(px, py); else context.moveTo(px, py);
          open = true;
        });
        context.stroke();
      }
      context.globalAlpha = 1;
      return shown;
    };
    draw();
    const svg = select(holder).append("svg").attr("width", width).attr("height", height).style("position", "relative").style("display", "block");
    axes.forEach((axis, index) => {
      const [low, high] = scales[index]!.domain() as [number, number];
      const group = svg.append("g").attr("transform", `translate(${xScale(axis.key)},0)`);
      group.append("line").attr("y1", top).attr("y2", height - bottom).attr("stroke", cssColour("quiet"));
      const text = (y: number, words: string, weight = 400) => group.append("text").attr("y", y).attr("text-anchor", "middle").attr("font-size", 12).attr("font-weight", weight).attr("fill", cssColour("ink")).text(words);
      const room = Math.max(8, Math.floor((width - 120) / Math.max(1, axes.length - 1) / 7.6));
      text(14, axis.label.length > room ? `${axis.label.slice(0, room - 1)}…` : axis.label, 600).append("title").text(axis.label);
      text(30, axis.format(axis.better === "low" ? low : high));
      text(height - 6, axis.format(axis.better === "low" ? high : low));
      const axisBrush = brushY<unknown>().extent([[-14, top], [14, height - bottom]]).on("end", (event: { selection: [number, number] | null; sourceEvent: Event | null }) => {
        if (!event.sourceEvent) return;
        if (event.selection) limits.set(index, event.selection); else limits.delete(index);
        const shown = draw();
        onPick(limits.size ? new Set(shown.map((row) => row.id)) : null);
      });
      group.append("g").attr("class", "brush").call(axisBrush as never);
    });
  }, [measured, axes, measure, picked === null]);
  if (axes.length < 3 || measured.length < 3) return null;
  return (
    <section class="card wide-card" aria-label="Parallel coordinates">
      <div class="head"><h2>Parallel coordinates</h2></div>
      <div class="scroll" tabIndex={0} role="region" aria-label="Parallel coordinates, scrolls on small windows">
        <div class="plot parallel" role="img" aria-label={`${measured.length} candidates over ${axes.map((axis) => axis.label).join(", ")}`} ref={holderRef} />
      </div>
      <p class="quiet small">{measured.length.toLocaleString("en")} candidates with three measures or more. Better is up; colour is {measure.label}. Drag along an axis to choose a range. What was not measured is passed over by its line.</p>
    </section>
  );
}
