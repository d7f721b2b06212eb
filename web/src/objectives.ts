// What a run with several objectives has reached: which candidates nothing dominates, and the hypervolume over the run.
// The same rules as in services/domain/objectives.py: costs are positive, less is better.
import { measure, type Measure } from "./measures.js";
import type { Row, Status } from "./records.js";

const KEYS: Record<string, string> = { speed: "tokens_per_second", memory: "peak_memory", state: "state_size" };

export interface Progress {
  front: Row[];
  volumes: [number, number][]; // number of the candidate, share of the box that is dominated from it on
}

/** The measures that a run optimises; none where that is fitness alone. */
export function objectivesOf(status: Status | null): Measure[] {
  const names = status?.settings?.policies?.objectives ?? "";
  return names.split(",").map((name) => name.trim()).filter(Boolean).map((name) => measure(KEYS[name] ?? name));
}

function costs(row: Row, objectives: readonly Measure[]): number[] | null {
  if (row.kind === "ablation" || row.state === "rejected" || row.stopped) return null;
  const found = objectives.map((which) => {
    const value = which.of(row);
    if (value === undefined) return NaN;
    return which.key === "tokens_per_second" ? 1 / value : which.better === "high" ? 1 - value : value;
  });
  return found.every(Number.isFinite) ? found : null;
}

const dominates = (a: readonly number[], b: readonly number[]) => a.every((cost, place) => cost <= b[place]!) && a.some((cost, place) => cost < b[place]!);

/** The share of the box from zero to the reference that the points dominate, by slices along the last objective. */
export function hypervolume(points: readonly (readonly number[])[], reference: readonly number[]): number {
  const inside = points.map((point) => point.map((cost, place) => Math.max(0, cost / reference[place]!))).filter((point) => point.every((cost) => cost < 1));
  return volume(inside);
}

function volume(points: readonly number[][]): number {
  if (!points.length) return 0;
  if (points[0]!.length === 1) return 1 - Math.min(...points.map((point) => point[0]!));
  const ordered = [...points].sort((a, b) => a.at(-1)! - b.at(-1)!);
  return ordered.reduce((sum, point, place) => {
    const above = ordered[place + 1]?.at(-1) ?? 1;
    return above > point.at(-1)! ? sum + (above - point.at(-1)!) * volume(ordered.slice(0, place + 1).map((lower) => lower.slice(0, -1))) : sum;
  }, 0);
}

/** Null while no baseline is measured in all objectives. */
export function progressOf(rows: readonly Row[], objectives: readonly Measure[]): Progress | null {
  if (objectives.length < 2) return null;
  const measured = [...rows].sort((a, b) => a.number - b.number).flatMap((row) => {
    const cost = costs(row, objectives);
    return cost ? [{ row, cost }] : [];
  });
  const baselines = measured.filter((one) => one.row.kind === "baseline");
  if (!baselines.length) return null;
  const reference = objectives.map((_, place) => Math.max(...baselines.map((one) => one.cost[place]!)));
  let front: typeof measured = [];
  const volumes: [number, number][] = [];
  for (const one of measured) {
    if (front.some((other) => dominates(other.cost, one.cost) || other.cost.every((cost, place) => cost === one.cost[place]))) continue;
    front = [...front.filter((other) => !dominates(one.cost, other.cost)), one];
    volumes.push([one.row.number, hypervolume(front.map((other) => other.cost), reference)]);
  }
  if (volumes.length) volumes.push([measured.at(-1)!.row.number, volumes.at(-1)![1]]);
  return { front: front.map((one) => one.row), volumes };
}
