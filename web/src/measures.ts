// The measures of a candidate: labels, units, direction and number format.
import type { Row } from "./records.js";

export interface Measure {
  key: string;
  label: string;
  unit: string;
  better: "high" | "low" | null;
  value: (row: Row) => number | undefined;
  format: (value: number) => string;
}

const fixed = (digits: number) => (value: number) => value.toFixed(digits);

/** Three significant digits with k, M, G or T. */
export function abbreviated(value: number): string {
  const units: [number, string][] = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
  for (const [size, unit] of units) {
    if (Math.abs(value) >= size) return `${(value / size).toPrecision(3)}${unit}`;
  }
  return value.toPrecision(3).replace(/\.?0+$/, "");
}

/** Hours, minutes and seconds, as in 1:02:03. */
export function clock(seconds: number): string {
  const total = Math.max(0, Math.round(seconds));
  const hours = Math.floor(total / 3600), minutes = Math.floor(total / 60) % 60;
  const twoDigits = (value: number) => String(value).padStart(2, "0");
  return hours ? `${hours}:${twoDigits(minutes)}:${twoDigits(total % 60)}` : `${minutes}:${twoDigits(total % 60)}`;
}

const field = (key: keyof Row) => (row: Row) => row[key] as number | undefined;

export const MEASURES: Measure[] = [
  { key: "fitness", label: "fitness", unit: "", better: "high", value: field("fitness"), format: fixed(3) },
  { key: "loss", label: "held-out loss", unit: "nats per token", better: "low", value: field("loss"), format: fixed(4) },
  { key: "train_loss", label: "training loss", unit: "nats per token, last point", better: "low", value: field("train_loss"), format: fixed(4) },
  { key: "benchmark", label: "benchmark", unit: "mean accuracy", better: "high", value: field("benchmark"), format: fixed(3) },
  { key: "judge", label: "judge", unit: "1–10", better: "high", value: field("judge"), format: fixed(1) },
  { key: "parameters", label: "parameters", unit: "", better: "low", value: field("parameters"), format: abbreviated },
  { key: "seconds", label: "training time", unit: "seconds", better: "low", value: field("seconds"), format: clock },
  { key: "tokens_per_second", label: "speed", unit: "tokens per second", better: "high", value: field("tokens_per_second"), format: abbreviated },
  { key: "peak_memory", label: "peak memory", unit: "bytes", better: "low", value: field("peak_memory"), format: abbreviated },
  { key: "flops", label: "FLOPs", unit: "per token", better: "low", value: field("flops"), format: abbreviated },
  { key: "state_size", label: "state", unit: "numbers kept per layer", better: "low", value: field("state_size"), format: abbreviated },
  { key: "number", label: "number", unit: "in the order of the run", better: null, value: field("number"), format: String },
];

const byKey = new Map(MEASURES.map((measure) => [measure.key, measure]));

/** A measure by its key; the key of a single task is task:NAME. */
export function measureOf(key: string): Measure {
  const known = byKey.get(key);
  if (known) return known;
  const task = key.replace(/^task:/, "");
  const taskMeasure: Measure = {
    key, label: task, unit: /ppl|perplexity/.test(task) ? "perplexity" : "accuracy", better: /ppl|perplexity/.test(task) ? "low" : "high",
    value: (row) => row.scores?.[task], format: fixed(3),
  };
  byKey.set(key, taskMeasure);
  return taskMeasure;
}

/** The measures that at least one row has; single tasks last. */
export function measuresOf(rows: readonly Row[]): Measure[] {
  const tasks = new Set<string>();
  for (const row of rows) for (const task of Object.keys(row.scores ?? {})) tasks.add(task);
  return [...MEASURES.filter((measure) => rows.some((row) => measure.value(row) !== undefined)), ...[...tasks].sort().map((task) => measureOf(`task:${task}`))];
}

/** Whether `a` is better than `b` in the measure. */
export function isBetter(measure: Measure, a: number, b: number): boolean {
  return measure.better === "low" ? a < b : a > b;
}

/** The row's value as text; a dash if it was not measured. */
export function formatted(measure: Measure, row: Row): string {
  const value = measure.value(row);
  return value === undefined ? "–" : measure.format(value);
}
