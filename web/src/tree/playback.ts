// The run as a film: when each candidate appeared and when it was scored, from the event log or, without one, by number.
import { ask } from "../archive.js";
import type { Row } from "../records.js";

export interface Film {
  frames: number;
  appears: Map<string, number>; // frame in which a candidate is there first
  scored: Map<string, number>;
  caption: (frame: number) => string;
  from: string; // what the order comes from
}

const APPEARS = /candidate\.(proposed|imported|requested|claimed|trained)$/;
const SCORED = /candidate\.(judged|archived|imported)$/;

/** The order of the log; Refused where the server cannot read it, and then the order of the numbers. */
export async function film(run: string, rows: readonly Row[]): Promise<Film> {
  try {
    const { facts } = await ask<{ facts: [number, number, string, string][] }>("/api/history", { run });
    const made = fromLog(facts, rows);
    if (made) return made;
  } catch {
    // Without its log a run still has an order.
  }
  const ordered = [...rows].sort((a, b) => a.number - b.number);
  const places = new Map(ordered.map((row, place) => [row.id, place]));
  return {
    frames: ordered.length, appears: places, scored: places, from: "order of the run",
    caption: (frame) => `candidate ${Math.min(frame + 1, ordered.length)} of ${ordered.length}`,
  };
}

function fromLog(facts: [number, number, string, string][], rows: readonly Row[]): Film | null {
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
  const begun = times[0]!;
  const still = times.at(-1) === begun; // an imported archive knows no times
  return {
    frames: times.length, appears, scored, from: "event log",
    caption: (frame) => {
      const place = Math.min(frame, times.length - 1);
      if (still) return `event ${place + 1} of ${times.length}`;
      const minutes = (times[place]! - begun) / 60;
      return `${new Date(times[place]! * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" })} · ${minutes < 120 ? `${minutes.toFixed(1)} min` : `${(minutes / 60).toFixed(1)} h`} in`;
    },
  };
}
