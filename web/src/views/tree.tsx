// The tree of candidates with its controls: layout, colour, size, folding, keyboard, and the playback below.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { address, go } from "../address.js";
import { byId, filtered, rows, status } from "../archive.js";
import { descendantCounts, forest, pathFromRoot } from "../lineage.js";
import { isBetter, measureOf, measuresOf, formatted, type Measure } from "../measures.js";
import { Choice } from "./overview.js";
import type { Row } from "../records.js";
import { quantile } from "../statistics.js";
import { category, dark, colourScale } from "../theme.js";
import { TreeCanvas, type Appearance } from "../tree/canvas.js";
import { layout, type LayoutNode } from "../tree/layout.js";
import { timeline, type Timeline } from "../tree/playback.js";
import { Playback } from "../tree/player.js";

const BEST = 20;
const CATEGORICAL = ["state", "stage", "kind", "branch"];

export function TreeView() {
  const all = rows.value;
  const { layout: kind, colour, size, candidate, filter, at } = address.value;
  const canvas = useRef<HTMLCanvasElement>(null), mini = useRef<HTMLCanvasElement>(null), tip = useRef<HTMLDivElement>(null);
  const view = useRef<TreeCanvas | null>(null);
  const [folded, setFolded] = useState<ReadonlySet<string>>(new Set());
  const [focused, setFocused] = useState("");
  const [playback, setPlayback] = useState<Timeline | null>(null);
  const [spoken, setSpoken] = useState("");
  const frame = at === "" ? null : Number(at);
  const tree = useMemo(() => forest(all), [all]);
  const counts = useMemo(() => descendantCounts(tree), [tree]);
  const aspect = useRef(1.6);
  const treeLayout = useMemo(() => layout(tree, folded, counts, kind, aspect.current), [tree, folded, kind]);
  const chosen = candidate.split("..")[0]!;
  const theme = dark.value;
  const matching = useMemo(() => (filter ? new Set(filtered.value.map((row) => row.id)) : null), [filter, filtered.value]);
  const { paint, legend } = useMemo(() => colouring(colour, all, tree.roots), [colour, all, theme]);
  const sized = useMemo(() => sizeScale(measureOf(size), all), [size, all]);
  const best = useMemo(() => ranking(all, rankingMeasure(colour, all)).slice(0, BEST), [all, colour]);

  useEffect(() => {
    const treeCanvas = new TreeCanvas(canvas.current!, mini.current!);
    view.current = treeCanvas;
    aspect.current = treeCanvas.aspect;
    treeCanvas.onChoose = (node) => { setFocused(node.row.id); go({ candidate: node.row.id }); };
    treeCanvas.onFold = (node) => fold(node.row.id);
    treeCanvas.onHover = (node, x, y) => showTip(tip.current!, node, x, y);
    (window as { asiTree?: TreeCanvas }).asiTree = treeCanvas; // where a node is on the screen, for tests
    return () => treeCanvas.close();
  }, []);
  useEffect(() => {
    const path = new Set(chosen ? pathFromRoot(chosen, byId.value) : []);
    const shownAt = frame !== null && playback ? playback : null;
    const top = shownAt ? ranking(all.filter((row) => (shownAt.scored.get(row.id) ?? Infinity) <= frame!), rankingMeasure(colour, all)).slice(0, BEST) : best;
    const appearance: Appearance = {
      colour: (node) => (shownAt && (shownAt.scored.get(node.row.id) ?? Infinity) > frame! ? null : paint(node.row)),
      size: (node) => sized(node.row),
      label: (node) => node.row.name,
      best: top,
      chosen: focused || chosen,
      path,
      ancestry: new Set(top.flatMap((id) => pathFromRoot(id, byId.value))),
      bright: matching ? (node) => matching.has(node.row.id) : null,
      visible: shownAt ? (node) => (shownAt.appears.get(node.row.id) ?? 0) <= frame! : null,
    };
    view.current!.setLayout(treeLayout);
    view.current!.setAppearance(appearance);
  }, [treeLayout, paint, sized, best, chosen, focused, matching, frame, playback, theme]);
  useEffect(() => {
    setFocused("");
    if (!chosen) return;
    const hidden = pathFromRoot(chosen, byId.value).slice(0, -1).filter((id) => folded.has(id));
    if (hidden.length) setFolded(new Set([...folded].filter((id) => !hidden.includes(id))));
    // The canvas has its new width only after the panel beside it has been laid out.
    requestAnimationFrame(() => requestAnimationFrame(() => view.current?.panTo(chosen)));
  }, [chosen]);
  useEffect(() => { if (frame !== null && !playback) void timeline(status.value?.run ?? "", all).then(setPlayback); }, [frame === null]);

  function fold(id: string) {
    if (!tree.children.has(id)) return;
    setFolded((before) => { const next = new Set(before); if (!next.delete(id)) next.add(id); return next; });
  }
  function focus(to: Row | undefined) {
    if (!to) return;
    setFocused(to.id);
    setSpoken(`${to.name}, ${to.id}, ${measureOf("fitness").label} ${formatted(measureOf("fitness"), to)}, ${tree.children.get(to.id)?.length ?? 0} children`);
    view.current?.panTo(to.id);
  }
  function onKey(event: KeyboardEvent) {
    const here = byId.value.get(focused || chosen) ?? tree.roots[0];
    if (!here) return;
    const parent = here.parent ? byId.value.get(here.parent) : undefined;
    const siblings = (parent ? tree.children.get(parent.id) : tree.roots) ?? [];
    const index = siblings.findIndex((row) => row.id === here.id);
    const moves: Record<string, () => void> = {
      ArrowLeft: () => focus(parent), ArrowRight: () => focus(focused || chosen ? tree.children.get(here.id)?.[0] : here),
      ArrowUp: () => focus(siblings[index - 1]), ArrowDown: () => focus(siblings[index + 1]), Home: () => focus(tree.roots[0]),
      Enter: () => go({ candidate: here.id }), " ": () => fold(here.id),
      "+": () => view.current?.zoomBy(1.4), "=": () => view.current?.zoomBy(1.4), "-": () => view.current?.zoomBy(1 / 1.4), "0": () => view.current?.fit(),
    };
    const move = moves[event.key];
    if (move) { event.preventDefault(); move(); }
  }

  const measures = measuresOf(all).map((measure) => [measure.key, measure.label] as const);
  return (
    <div class="tree-view">
      <div class="tools">
        <Choice label="layout" value={kind} options={[["radial", "radial"], ["tidy", "tidy"]]} onChange={(value) => go({ layout: value }, true)} />
        <Choice label="colour" value={colour} options={[...measures, ...CATEGORICAL.map((name) => [name, name] as const)]} onChange={(value) => go({ colour: value }, true)} />
        <Choice label="size" value={size} options={[...measures, ["descendants", "descendants"] as const]} onChange={(value) => go({ size: value }, true)} />
        <Legend items={legend} />
        <span class="spread" />
        <button onClick={() => view.current?.zoomBy(1.4)} aria-label="Zoom in">+</button>
        <button onClick={() => view.current?.zoomBy(1 / 1.4)} aria-label="Zoom out">−</button>
        <button onClick={() => view.current?.fit()}>Fit</button>
        {folded.size > 0 && <button onClick={() => setFolded(new Set())}>Unfold all</button>}
      </div>
      <div class="stage">
        <canvas
          ref={canvas} tabIndex={0} role="application" aria-roledescription="tree of candidates"
          aria-label={`Tree of ${all.length} candidates. Arrow keys walk, Enter opens, Space folds, plus and minus zoom, 0 fits.`}
          onKeyDown={onKey}
        />
        <canvas class="minimap" ref={mini} aria-hidden="true" />
        <div class="tip" ref={tip} hidden />
        <p class="sr" role="status" aria-live="polite">{spoken}</p>
        <p class="hint quiet small">wheel: zoom · drag: move · click: open · double click: fold</p>
      </div>
      <Playback timeline={playback} frame={frame} rows={all} measure={rankingMeasure(colour, all)} onOpen={() => go({ at: "0" }, true)} onClose={() => go({ at: "" }, true)} onFrame={(index) => go({ at: String(index) }, true)} />
    </div>
  );
}

function showTip(box: HTMLElement, node: LayoutNode | null, x: number, y: number): void {
  box.hidden = !node;
  if (!node) return;
  const { row } = node;
  const parent = row.parent ? byId.value.get(row.parent) : undefined;
  const known = measuresOf([row]).filter((measure) => !measure.key.startsWith("task:") && measure.key !== "number");
  box.textContent = [`${row.name} (${row.id})`, ...known.map((measure) => `${measure.label}: ${formatted(measure, row)}`), `state: ${row.state}`, ...(parent ? [`from ${parent.name}`] : []), ...(row.reason ? [row.reason.slice(0, 80)] : [])].join("\n");
  const stage = box.parentElement!.getBoundingClientRect();
  const flip = x > stage.width / 2, low = y > stage.height / 2;
  box.style.transform = `translate(${flip ? "-100%" : "0"}, ${low ? "-100%" : "0"}) translate(${x + (flip ? -14 : 14)}px, ${y + (low ? -14 : 14)}px)`;
}

/** The measure that ranks candidates for labels and the line of the best so far: that of the colour if it has a direction, else fitness. */
function rankingMeasure(colour: string, all: readonly Row[]): Measure {
  const measure = CATEGORICAL.includes(colour) ? measureOf("fitness") : measureOf(colour);
  return measure.better && all.some((row) => measure.value(row) !== undefined) ? measure : measureOf("fitness");
}

function ranking(all: readonly Row[], measure: Measure): string[] {
  return all.filter((row) => measure.value(row) !== undefined)
    .sort((a, b) => (isBetter(measure, measure.value(a)!, measure.value(b)!) ? -1 : 1)).map((row) => row.id);
}

function sizeScale(measure: Measure, all: readonly Row[]): (row: Row) => number {
  if (measure.key === "task:descendants" || measure.key === "descendants") {
    const counts = descendantCounts(forest(all));
    const largest = Math.max(1, ...counts.values());
    return (row) => Math.sqrt((counts.get(row.id) ?? 0) / largest);
  }
  const values = all.map(measure.value).filter((value): value is number => value !== undefined).sort((a, b) => a - b);
  if (values.length < 2) return () => 0.4;
  const low = quantile(values, 0.02), high = quantile(values, 1);
  return (row) => {
    const value = measure.value(row);
    if (value === undefined) return 0;
    const share = Math.min(1, Math.max(0, (value - low) / (high - low || 1)));
    return (measure.better === "low" ? 1 - share : share) ** 2;
  };
}

interface Swatch { text: string; colour: string }
type LegendItems = { from: string; to: string; colours: string[] } | Swatch[];

function colouring(key: string, all: readonly Row[], roots: readonly Row[]): { paint: (row: Row) => string | null; legend: LegendItems } {
  if (CATEGORICAL.includes(key)) {
    const branchOf = key === "branch" ? branches(all, roots) : null;
    const label = (row: Row) => (branchOf ? branchOf.get(row.id) ?? "" : String(row[key as keyof Row] ?? ""));
    const counts = new Map<string, number>();
    for (const row of all) counts.set(label(row), (counts.get(label(row)) ?? 0) + 1);
    const names = [...counts].sort((a, b) => b[1] - a[1]).map(([name]) => name);
    const indices = new Map(names.map((name, index) => [name, Math.min(index, 7)]));
    return { paint: (row) => category(indices.get(label(row)) ?? 7), legend: names.slice(0, 7).map((text, index) => ({ text, colour: category(index) })) };
  }
  const measure = measureOf(key);
  const values = all.map(measure.value).filter((value): value is number => value !== undefined).sort((a, b) => a - b);
  if (!values.length) return { paint: () => null, legend: [] };
  const low = quantile(values, 0.05), high = quantile(values, 1);
  const [worst, top] = measure.better === "low" ? [quantile(values, 0.95), values[0]!] : [low, high];
  const scale = colourScale(worst, top);
  return {
    paint: (row) => { const value = measure.value(row); return value === undefined ? null : scale(value); },
    legend: { from: measure.format(worst), to: measure.format(top), colours: Array.from({ length: 9 }, (_, index) => scale(worst + ((top - worst) * index) / 8)) },
  };
}

/** Each candidate's branch: the child of the root that it descends from, if there is one root; else its root. */
function branches(all: readonly Row[], roots: readonly Row[]): Map<string, string> {
  const known = new Map(all.map((row) => [row.id, row]));
  const depth = roots.length === 1 ? 1 : 0;
  return new Map(all.map((row) => [row.id, known.get(pathFromRoot(row.id, known)[depth] ?? row.id)?.name ?? row.name]));
}

function Legend({ items }: { items: LegendItems }) {
  if (Array.isArray(items)) {
    return <span class="legend">{items.map((swatch) => <span key={swatch.text}><i style={{ background: swatch.colour }} />{swatch.text}</span>)}</span>;
  }
  return (
    <span class="legend"><span>{items.from}</span><i class="ramp" style={{ background: `linear-gradient(90deg, ${items.colours.join(",")})` }} /><span>{items.to}</span></span>
  );
}
