// The timeline of a run: when each candidate appeared and was scored, from the event log or, without one, by number.
import { getJson } from "../archive.js";
import type { Row } from "../records.js";

export interface Timeline {
  frames: number;
  appears: Map<string, number>; // first frame that shows a candidate
  scored: Map<string, number>;
  caption: (frame: number) => string;
  source: string; // the origin of the order
}

const APPEARS = /candidate\.(proposed|imported|requested|claimed|trained)$/;
const SCORED = /candidate\.(judged|archived|imported)$/;

/** The order of the log or, if the server cannot read it, of the candidates' numbers. */
export async function timeline(run: string, rows: readonly Row[]): Promise<Timeline> {
  try {
    const { facts } = await getJson<{ facts: [number, number, string, string][] }>("/api/history", { run });
    const fromFacts = fromLog(facts, rows);
    if (fromFacts) return fromFacts;
  } catch {
    // The log cannot be read: use the numbers.
  }
  const ordered = [...rows].sort((a, b) => a.number - b.number);
  const order = new Map(ordered.map((row, index) => [row.id, index]));
  return {
    frames: ordered.length, appears: order, scored: order, source: "order of the run",
    caption: (frame) => `candidate ${Math.min(frame + 1, ordered.length)} of ${ordered.length}`,
  };
}

function fromLog(facts: [number, number, string, string][], rows: readonly Row[]): Timeline | null {
  const known = new Set(rows.map((row) => row.id));
  const appears = new Map<string, number>(), scored = new Map<string, number>();
  const times: number[] = [];
  for (const [, when, candidate, fact] of facts) {
    if (!known.has(candidate)) continue;
    const frame = times.length;
    if (APPEARS.test(fact) && !appears.has(candidate)) appears.set(candidate, frame);
    else if (!SCORED.test(fact)) continue;
    if (SCORED.test(fact) && !scored.has(candidate)) scored.set(candidate, frame);
    times.push(when);
  }
  if (appears.size < rows.length / 2) return null;
  for (const row of rows) {
    if (!appears.has(row.id)) appears.set(row.id, 0);
  }
  const start = times[0]!;
  const untimed = times.at(-1) === start; // an imported archive has no times
  return {
    frames: times.length, appears, scored, source: "event log",
    caption: (frame) => {
      const index = Math.min(frame, times.length - 1);
      if (untimed) return `event ${index + 1} of ${times.length}`;
      const minutes = (times[index]! - start) / 60;
      return `${new Date(times[index]! * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" })} · ${minutes < 120 ? `${minutes.toFixed(1)} min` : `${(minutes / 60).toFixed(1)} h`} in`;
    },
  };
}
