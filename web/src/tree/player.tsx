// The controls of the playback: a slider over the log and, below it, the line of the best so far.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { isBetter, type Measure } from "../measures.js";
import type { Row } from "../records.js";
import type { Timeline } from "./playback.js";

interface Props {
  timeline: Timeline | null;
  frame: number | null;
  rows: readonly Row[];
  measure: Measure;
  onOpen: () => void;
  onClose: () => void;
  onFrame: (frame: number) => void;
}

const SECONDS = 20; // for a whole run

export function Playback({ timeline, frame, rows, measure, onOpen, onClose, onFrame }: Props) {
  const [playing, setPlaying] = useState(false);
  const position = useRef(frame ?? 0);
  position.current = frame ?? 0;
  useEffect(() => {
    if (!playing || !timeline) return undefined;
    const started = performance.now(), from = position.current >= timeline.frames - 1 ? 0 : position.current;
    let running = true;
    let last = -1;
    const step = (now: number) => {
      if (!running) return;
      const next = Math.min(timeline.frames - 1, from + Math.floor(((now - started) / 1000) * Math.max(1, timeline.frames / SECONDS)));
      if (next !== last) { last = next; onFrame(next); }
      if (next >= timeline.frames - 1) setPlaying(false);
      else requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
    return () => { running = false; };
  }, [playing, timeline]);
  const steps = useMemo(() => (timeline ? bestSteps(timeline, rows, measure) : []), [timeline, rows, measure]);
  if (frame === null) {
    return <div class="playback closed"><button onClick={() => { onOpen(); setPlaying(true); }}>▶ Play the run</button><span class="quiet small">grows the tree event by event</span></div>;
  }
  if (!timeline) return <div class="playback closed"><p class="quiet" role="status">Reading the log …</p></div>;
  const best = steps.filter((step) => step.frame <= frame).at(-1);
  return (
    <div class="playback">
      <div class="controls">
        <button onClick={() => setPlaying(!playing)} aria-label={playing ? "Pause" : "Play"}>{playing ? "❚❚" : "▶"}</button>
        <input
          type="range" min={0} max={timeline.frames - 1} value={frame} aria-label="Place in the event log" aria-valuetext={timeline.caption(frame)}
          onInput={(event) => { setPlaying(false); onFrame(Number(event.currentTarget.value)); }}
        />
        <span class="quiet small caption">{timeline.caption(frame)} ({timeline.source})</span>
        <span class="small caption">best {measure.label}: <strong>{best ? measure.format(best.value) : "–"}</strong></span>
        <button onClick={() => { setPlaying(false); onClose(); }}>Close</button>
      </div>
      <BestLine steps={steps} frames={timeline.frames} frame={frame} measure={measure} onFrame={(to) => { setPlaying(false); onFrame(to); }} />
    </div>
  );
}

interface Step { frame: number; value: number }

function bestSteps(timeline: Timeline, rows: readonly Row[], measure: Measure): Step[] {
  const scored = rows.filter((row) => measure.value(row) !== undefined && timeline.scored.has(row.id)).sort((a, b) => timeline.scored.get(a.id)! - timeline.scored.get(b.id)!);
  const steps: Step[] = [];
  for (const row of scored) {
    const value = measure.value(row)!;
    if (!steps.length || isBetter(measure, value, steps.at(-1)!.value)) steps.push({ frame: timeline.scored.get(row.id)!, value });
  }
  return steps;
}

function BestLine({ steps, frames, frame, measure, onFrame }: { steps: Step[]; frames: number; frame: number; measure: Measure; onFrame: (frame: number) => void }) {
  if (steps.length < 2) return null;
  const values = steps.map((step) => step.value);
  const low = Math.min(...values), high = Math.max(...values);
  const x = (at: number) => (1000 * at) / Math.max(1, frames - 1);
  const y = (value: number) => 44 - (40 * (value - low)) / (high - low || 1);
  const path = (end: number) => {
    const part = steps.filter((step) => step.frame <= end);
    if (!part.length) return "";
    return part.map((step, index) => `${index ? `H${x(step.frame)}V` : `M${x(step.frame)},`}${y(step.value)}`).join("") + `H${x(end)}`;
  };
  return (
    <svg
      class="best-line" viewBox="0 0 1000 48" preserveAspectRatio="none" role="img" aria-label={`Best ${measure.label} so far, from ${measure.format(values[0]!)} to ${measure.format(values.at(-1)!)}`}
      onClick={(event) => { const box = event.currentTarget.getBoundingClientRect(); onFrame(Math.round(((event.clientX - box.left) / box.width) * (frames - 1))); }}
    >
      <path d={path(frames - 1)} fill="none" stroke="var(--strong)" stroke-width="1.5" vector-effect="non-scaling-stroke" />
      <path d={path(frame)} fill="none" stroke="var(--accent)" stroke-width="2.5" vector-effect="non-scaling-stroke" />
      <line x1={x(frame)} x2={x(frame)} y1="0" y2="48" stroke="var(--ink)" stroke-width="1" vector-effect="non-scaling-stroke" />
    </svg>
  );
}
