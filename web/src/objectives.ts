// The progress of a run with several objectives: its non-dominated front, and the hypervolume over the run.
// The rules are those of services/domain/objectives.py: costs are positive, and less is better.
import { measureOf, type Measure } from "./measures.js";
import type { Row, Status } from "./records.js";

const KEYS: Record<string, string> = { speed: "tokens_per_second", memory: "peak_memory", state: "state_size" };

export interface Progress {
  front: Row[];
  volumes: [number, number][]; // number of a candidate, and the dominated share of the box from then on
}

/** The objectives of a run; empty if it optimises fitness alone. */
export function objectivesOf(status: Status | null): Measure[] {
  const names = status?.settings?.policies?.objectives ?? "";
  return names.split(",").map((name) => name.trim()).filter(Boolean).map((name) => measureOf(KEYS[name] ?? name));
}

function costs(row: Row, objectives: readonly Measure[]): number[] | null {
  if (row.kind === "ablation" || row.state === "rejected" || row.stopped) return null;
  const values = objectives.map((objective) => {
    const value = objective.value(row);
    if (value === undefined) return NaN;
    return objective.key === "tokens_per_second" ? 1 / value : objective.better === "high" ? 1 - value : value;
  });
  return values.every(Number.isFinite) ? values : null;
}

const dominates = (a: readonly number[], b: readonly number[]) => a.every((cost, index) => cost <= b[index]!) && a.some((cost, index) => cost < b[index]!);

/** The share of the box from zero to the reference that the points dominate, by slices along the last objective. */
export function hypervolume(points: readonly (readonly number[])[], reference: readonly number[]): number {
  const inside = points.map((point) => point.map((cost, index) => Math.max(0, cost / reference[index]!))).filter((point) => point.every((cost) => cost < 1));
  return volume(inside);
}

function volume(points: readonly number[][]): number {
  if (!points.length) return 0;
  if (points[0]!.length === 1) return 1 - Math.min(...points.map((point) => point[0]!));
  const ordered = [...points].sort((a, b) => a.at(-1)! - b.at(-1)!);
  return ordered.reduce((sum, point, index) => {
    const above = ordered[index + 1]?.at(-1) ?? 1;
    return above > point.at(-1)! ? sum + (above - point.at(-1)!) * volume(ordered.slice(0, index + 1).map((lower) => lower.slice(0, -1))) : sum;
  }, 0);
}

/** The front and the hypervolumes; null while no baseline is measured in all objectives. */
export function progressOf(rows: readonly Row[], objectives: readonly Measure[]): Progress | null {
  if (objectives.length < 2) return null;
  const measured = [...rows].sort((a, b) => a.number - b.number).flatMap((row) => {
    const cost = costs(row, objectives);
    return cost ? [{ row, cost }] : [];
  });
  const baselines = measured.filter((candidate) => candidate.row.kind === "baseline");
  if (!baselines.length) return null;
  const reference = objectives.map((_, index) => Math.max(...baselines.map((candidate) => candidate.cost[index]!)));
  let front: typeof measured = [];
  const volumes: [number, number][] = [];
  for (const candidate of measured) {
    if (front.some((member) => dominates(member.cost, candidate.cost) || member.cost.every((cost, index) => cost === candidate.cost[index]))) continue;
    front = [...front.filter((member) => !dominates(candidate.cost, member.cost)), candidate];
    volumes.push([candidate.row.number, hypervolume(front.map((member) => member.cost), reference)]);
  }
  if (volumes.length) volumes.push([measured.at(-1)!.row.number, volumes.at(-1)![1]]);
  return { front: front.map((candidate) => candidate.row), volumes };
}
