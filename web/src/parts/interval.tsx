// A difference with its interval: words, numbers, and a bar around zero.
export interface Gain { mean: number; low: number; high: number }

/** A positive `gain` is an improvement; a bar that crosses zero is undecided. */
export function GainBar({ gain, reach, digits, words }: { gain: Gain; reach: number; digits: number; words: string }) {
  const x = (value: number) => 60 + (56 * Math.max(-reach, Math.min(reach, value))) / (reach || 1);
  const tone = gain.low <= 0 && gain.high >= 0 ? "quiet" : gain.mean > 0 ? "good" : "bad";
  const signed = (value: number) => (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(digits);
  return (
    <span class="gain">
      <svg class={tone} width="120" height="16" viewBox="0 0 120 16" aria-hidden="true">
        <line x1="60" x2="60" y1="1" y2="15" stroke="var(--quiet)" />
        <line x1={x(gain.low)} x2={x(gain.high)} y1="8" y2="8" stroke="currentColor" stroke-width="2.5" stroke-linecap="round" />
        <circle cx={x(gain.mean)} cy="8" r="3.5" fill="currentColor" />
      </svg>
      <span class="num">{signed(gain.mean)}</span> <span class="quiet num">[{signed(gain.low)}, {signed(gain.high)}]</span> <span class={tone}>{words}</span>
    </span>
  );
}
