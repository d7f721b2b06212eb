// The playback's controls: a slider over the log and, below it, the best so far up to the place where it stands.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { betterThan, type Measure } from "../measures.js";
import type { Row } from "../records.js";
import type { Film } from "./playback.js";

interface Props {
  film: Film | null;
  frame: number | null;
  rows: readonly Row[];
  which: Measure;
  onOpen: () => void;
  onClose: () => void;
  onFrame: (frame: number) => void;
}

const SECONDS = 20; // for a whole run

export function Playback({ film, frame, rows, which, onOpen, onClose, onFrame }: Props) {
  const [playing, setPlaying] = useState(false);
  const place = useRef(frame ?? 0);
  place.current = frame ?? 0;
  useEffect(() => {
    if (!playing || !film) return undefined;
    const begun = performance.now(), from = place.current >= film.frames - 1 ? 0 : place.current;
    let running = true;
    let last = -1;
    const step = (now: number) => {
      if (!running) return;
      const next = Math.min(film.frames - 1, from + Math.floor(((now - begun) / 1000) * Math.max(1, film.frames / SECONDS)));
      if (next !== last) { last = next; onFrame(next); }
      if (next >= film.frames - 1) setPlaying(false);
      else requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
    return () => { running = false; };
  }, [playing, film]);
  const steps = useMemo(() => (film ? bestLine(film, rows, which) : []), [film, rows, which]);
  if (frame === null) {
    return <div class="playback closed"><button onClick={() => { onOpen(); setPlaying(true); }}>▶ Play the run</button><span class="quiet small">grows the tree event by event</span></div>;
  }
  if (!film) return <div class="playback closed"><p class="quiet" role="status">Reading the log …</p></div>;
  const best = steps.filter((one) => one.frame <= frame).at(-1);
  return (
    <div class="playback">
      <div class="controls">
        <button onClick={() => setPlaying(!playing)} aria-label={playing ? "Pause" : "Play"}>{playing ? "❚❚" : "▶"}</button>
        <input
          type="range" min={0} max={film.frames - 1} value={frame} aria-label="Place in the event log" aria-valuetext={film.caption(frame)}
          onInput={(event) => { setPlaying(false); onFrame(Number(event.currentTarget.value)); }}
        />
        <span class="quiet small caption">{film.caption(frame)} ({film.from})</span>
        <span class="small caption">best {which.label}: <strong>{best ? which.text(best.value) : "–"}</strong></span>
        <button onClick={() => { setPlaying(false); onClose(); }}>Close</button>
      </div>
      <Line steps={steps} frames={film.frames} frame={frame} which={which} onFrame={(to) => { setPlaying(false); onFrame(to); }} />
    </div>
  );
}

interface Step { frame: number; value: number }

function bestLine(film: Film, rows: readonly Row[], which: Measure): Step[] {
  const scored = rows.filter((row) => which.of(row) !== undefined && film.scored.has(row.id)).sort((a, b) => film.scored.get(a.id)! - film.scored.get(b.id)!);
  const steps: Step[] = [];
  for (const row of scored) {
    const value = which.of(row)!;
    if (!steps.length || betterThan(which, value, steps.at(-1)!.value)) steps.push({ frame: film.scored.get(row.id)!, value });
  }
  return steps;
}

function Line({ steps, frames, frame, which, onFrame }: { steps: Step[]; frames: number; frame: number; which: Measure; onFrame: (frame: number) => void }) {
  if (steps.length < 2) return null;
  const values = steps.map((one) => one.value);
  const low = Math.min(...values), high = Math.max(...values);
  const x = (at: number) => (1000 * at) / Math.max(1, frames - 1);
  const y = (value: number) => 44 - (40 * (value - low)) / (high - low || 1);
  const path = (end: number) => {
    const part = steps.filter((one) => one.frame <= end);
    if (!part.length) return "";
    return part.map((one, place) => `${place ? `H${x(one.frame)}V` : `M${x(one.frame)},`}${y(one.value)}`).join("") + `H${x(end)}`;
  };
  return (
    <svg
      class="best-line" viewBox="0 0 1000 48" preserveAspectRatio="none" role="img" aria-label={`Best ${which.label} so far, from ${which.text(values[0]!)} to ${which.text(values.at(-1)!)}`}
      onClick={(event) => { const box = event.currentTarget.getBoundingClientRect(); onFrame(Math.round(((event.clientX - box.left) / box.width) * (frames - 1))); }}
    >
      <path d={path(frames - 1)} fill="none" stroke="var(--strong)" stroke-width="1.5" vector-effect="non-scaling-stroke" />
      <path d={path(frame)} fill="none" stroke="var(--accent)" stroke-width="2.5" vector-effect="non-scaling-stroke" />
      <line x1={x(frame)} x2={x(frame)} y1="0" y2="48" stroke="var(--ink)" stroke-width="1" vector-effect="non-scaling-stroke" />
    </svg>
  );
}
