// A line chart by uPlot: hovering shows values, dragging zooms in, a double click zooms out.
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { dark, cssColour } from "../theme.js";

export interface Line {
  label: string;
  points: readonly (readonly [number, number])[];
  colour: string;
  width?: number;
  dash?: number[];
  stepped?: boolean;
  dots?: boolean;
  band?: readonly (readonly [number, number, number])[]; // x, low, high: drawn behind the line
}

interface Props {
  lines: Line[];
  label: string; // the text alternative for screen readers
  x: string;
  y: string;
  height?: number;
  log?: boolean;
  logX?: boolean;
  xText?: (value: number) => string;
  yText?: (value: number) => string;
  legend?: boolean;
  onPick?: (line: number) => void;
}

/** The moving average over `window` points; 1 changes nothing. */
export function smoothed(points: readonly (readonly [number, number])[], window: number): [number, number][] {
  if (window <= 1) return points.map(([x, y]) => [x, y]);
  const half = Math.floor(window / 2);
  return points.map(([x], index) => {
    const part = points.slice(Math.max(0, index - half), index + half + 1);
    return [x, part.reduce((sum, [, y]) => sum + y, 0) / part.length];
  });
}

export function Lines(props: Props) {
  const holderRef = useRef<HTMLDivElement>(null);
  const theme = dark.value;
  const height = props.height ?? 220;
  useEffect(() => {
    const holder = holderRef.current!;
    const plot = draw(holder, props, height);
    const observer = new ResizeObserver(() => plot?.setSize({ width: holder.clientWidth, height }));
    observer.observe(holder);
    return () => { observer.disconnect(); plot?.destroy(); };
  }, [props.lines, props.log, props.logX, props.x, props.y, height, theme]);
  return <div class="plot" role="img" aria-label={props.label} ref={holderRef} style={{ minHeight: height }} />;
}

function draw(holder: HTMLElement, props: Props, height: number): uPlot | null {
  holder.replaceChildren();
  const lines = props.lines.filter((line) => line.points.length);
  if (!lines.length) return null;
  const xs = [...new Set(lines.flatMap((line) => [...line.points.map(([x]) => x), ...(line.band ?? []).map(([x]) => x)]))].sort((a, b) => a - b);
  const at = new Map(xs.map((x, index) => [x, index]));
  const column = (points: Iterable<readonly [number, number]>) => {
    const values: (number | null | undefined)[] = new Array(xs.length).fill(undefined); // undefined: the line continues
    for (const [x, y] of points) values[at.get(x)!] = y;
    return values;
  };
  const data: (number | null | undefined)[][] = [];
  const series: uPlot.Series[] = [{ label: props.x, value: (_, value) => (value === null ? "–" : (props.xText ?? short)(value)) }];
  const bands: uPlot.Band[] = [];
  for (const line of lines) {
    if (line.band?.length) {
      data.push(column(line.band.map(([x, , high]) => [x, high])), column(line.band.map(([x, low]) => [x, low])));
      const hidden = { stroke: "transparent", spanGaps: true, points: { show: false }, label: "" };
      series.push(hidden, hidden);
      bands.push({ series: [series.length - 2, series.length - 1], fill: `color-mix(in srgb, ${line.colour} 22%, transparent)` });
    }
    data.push(column(line.points));
    series.push({
      label: line.label, stroke: line.colour, width: line.width ?? 2, dash: line.dash, spanGaps: true,
      paths: line.stepped ? uPlot.paths.stepped!({ align: 1 }) : undefined,
      points: { show: line.dots ?? false, size: lines.length && line.points.length > 300 ? 3 : 5, fill: line.colour, width: 0 },
      value: (_, value) => (value === null || value === undefined ? "–" : (props.yText ?? short)(value)),
    });
  }
  const axis = { stroke: cssColour("quiet"), font: "12px system-ui, sans-serif", grid: { stroke: cssColour("line"), width: 1 }, ticks: { stroke: cssColour("line"), width: 1, size: 4 } };
  const options: uPlot.Options = {
    width: Math.max(200, holder.clientWidth), height, bands, series,
    padding: [8, 20, 0, 0],
    legend: { show: props.legend ?? false, live: true },
    cursor: { focus: { prox: 24 }, points: { size: 6 } },
    focus: { alpha: 0.25 },
    scales: { x: { time: false, distr: props.logX ? 3 : 1 }, y: { distr: props.log ? 3 : 1 } },
    axes: [
      { ...axis, label: props.x, labelFont: "12px system-ui, sans-serif", labelSize: 20, size: 34, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : (props.xText ?? short)(tick))) },
      { ...axis, label: props.y, labelFont: "12px system-ui, sans-serif", labelSize: 20, size: 52, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : short(tick))) },
    ],
  };
  const plot = new uPlot(options, [xs, ...data] as uPlot.AlignedData, holder);
  if (!props.legend) tooltip(plot, props, lines.map((line) => line.label));
  return plot;
}

/** The focused line's name and values, beside the cursor. */
function tooltip(plot: uPlot, props: Props, labels: string[]): void {
  const box = document.createElement("div");
  box.className = "tip";
  box.hidden = true;
  plot.over.append(box);
  let focused = -1;
  plot.hooks.setSeries = [(_, index) => { focused = index ?? -1; }];
  plot.hooks.setCursor = [() => {
    const { idx, left = -1, top = 0 } = plot.cursor;
    if (idx === null || idx === undefined || left < 0) { box.hidden = true; return; }
    const shown = plot.series.flatMap((series, index) => {
      if (!index || !labels.includes(String(series.label)) || (labels.length > 4 && index !== focused)) return [];
      const value = nearest(plot.data[index] as (number | null | undefined)[], idx);
      return value === undefined ? [] : [`${series.label}: ${(props.yText ?? short)(value)}`];
    });
    box.hidden = !shown.length;
    box.textContent = [`${props.x} ${(props.xText ?? short)(plot.data[0][idx]!)}`, ...shown].join("\n");
    const flip = left > plot.over.clientWidth / 2;
    box.style.transform = `translate(${flip ? "-100%" : "0"}, -100%) translate(${left + (flip ? -10 : 10)}px, ${Math.max(40, top)}px)`;
  }];
}

function nearest(values: (number | null | undefined)[], index: number): number | undefined {
  for (let at = index; at >= 0; at--) {
    const value = values[at];
    if (value !== null && value !== undefined) return value;
  }
  return undefined;
}

export function short(value: number): string {
  const size = Math.abs(value);
  if (size >= 1e6) return `${(value / 1e6).toPrecision(3).replace(/\.0+$/, "")}M`;
  if (size >= 1e4) return `${(value / 1e3).toPrecision(3).replace(/\.0+$/, "")}k`;
  if (size > 0 && size < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e");
  if (size === 0 || size >= 100) return String(Math.round(value * 100) / 100);
  return String(Number(value.toPrecision(4)));
}
