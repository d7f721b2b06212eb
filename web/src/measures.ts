// The measures of a candidate: their names, which way is better, and how a number is written.
import type { Row } from "./records.js";

export interface Measure {
  key: string;
  label: string;
  unit: string;
  better: "high" | "low" | null;
  of: (row: Row) => number | undefined;
  text: (value: number) => string;
}

const fixed = (digits: number) => (value: number) => value.toFixed(digits);

export function big(value: number): string {
  const units: [number, string][] = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
  for (const [size, unit] of units) {
    if (Math.abs(value) >= size) return `${(value / size).toPrecision(3)}${unit}`;
  }
  return value.toPrecision(3).replace(/\.?0+$/, "");
}

export function clock(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  const two = (value: number) => String(value).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

const field = (key: keyof Row) => (row: Row) => row[key] as number | undefined;

export const MEASURES: Measure[] = [
  { key: "fitness", label: "fitness", unit: "", better: "high", of: field("fitness"), text: fixed(3) },
  { key: "loss", label: "held-out loss", unit: "nats per token", better: "low", of: field("loss"), text: fixed(4) },
  { key: "train_loss", label: "training loss", unit: "nats per token, last point", better: "low", of: field("train_loss"), text: fixed(4) },
  { key: "benchmark", label: "benchmark", unit: "mean accuracy", better: "high", of: field("benchmark"), text: fixed(3) },
  { key: "judge", label: "judge", unit: "1–10", better: "high", of: field("judge"), text: fixed(1) },
  { key: "parameters", label: "parameters", unit: "", better: "low", of: field("parameters"), text: big },
  { key: "seconds", label: "training time", unit: "seconds", better: "low", of: field("seconds"), text: clock },
  { key: "tokens_per_second", label: "speed", unit: "tokens per second", better: "high", of: field("tokens_per_second"), text: big },
  { key: "peak_memory", label: "peak memory", unit: "bytes", better: "low", of: field("peak_memory"), text: big },
  { key: "flops", label: "FLOPs", unit: "per token", better: "low", of: field("flops"), text: big },
  { key: "state_size", label: "state", unit: "numbers kept per layer", better: "low", of: field("state_size"), text: big },
  { key: "number", label: "number", unit: "in the order of the run", better: null, of: field("number"), text: String },
];

const byKey = new Map(MEASURES.map((one) => [one.key, one]));

/** A measure by its key; scores of single tasks are called task:NAME. */
export function measure(key: string): Measure {
  const known = byKey.get(key);
  if (known) return known;
  const task = key.replace(/^task:/, "");
  const made: Measure = {
    key, label: task, unit: /ppl|perplexity/.test(task) ? "perplexity" : "accuracy", better: /ppl|perplexity/.test(task) ? "low" : "high",
    of: (row) => row.scores?.[task], text: fixed(3),
  };
  byKey.set(key, made);
  return made;
}

/** The measures that at least one row has, single tasks last. */
export function present(rows: readonly Row[]): Measure[] {
  const tasks = new Set<string>();
  for (const row of rows) for (const task of Object.keys(row.scores ?? {})) tasks.add(task);
  return [...MEASURES.filter((one) => rows.some((row) => one.of(row) !== undefined)), ...[...tasks].sort().map((task) => measure(`task:${task}`))];
}

/** Whether `a` is better than `b`. */
export function betterThan(which: Measure, a: number, b: number): boolean {
  return which.better === "low" ? a < b : a > b;
}

export function show(which: Measure, row: Row): string {
  const value = which.of(row);
  return value === undefined ? "–" : which.text(value);
}
