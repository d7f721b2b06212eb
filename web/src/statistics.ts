// Statistics for the charts: quantiles, means, and differences of two groups with intervals.

export function quantile(sorted: readonly number[], share: number): number {
  const position = (sorted.length - 1) * share;
  const low = Math.floor(position);
  const next = sorted[Math.min(low + 1, sorted.length - 1)]!;
  return sorted[low]! + (next - sorted[low]!) * (position - low);
}

export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function variance(values: readonly number[]): number {
  const centre = mean(values);
  return values.reduce((sum, value) => sum + (value - centre) ** 2, 0) / (values.length - 1);
}

/** Student's t for a two-sided 95 % interval by the Cornish–Fisher expansion; accurate to 1 % from 3 degrees of freedom. */
export function t95(freedom: number): number {
  const z = 1.959964;
  return z + (z ** 3 + z) / (4 * freedom) + (5 * z ** 5 + 16 * z ** 3 + 3 * z) / (96 * freedom ** 2)
    + (3 * z ** 7 + 19 * z ** 5 + 17 * z ** 3 - 15 * z) / (384 * freedom ** 3);
}

export interface Effect { effect: number; low: number; high: number; with: number; without: number }

export const MIN_GROUP = 5;

/** Welch's interval of mean(a) − mean(b); null if a group is smaller than MIN_GROUP or nothing varies. */
export function welch(a: readonly number[], b: readonly number[]): Effect | null {
  if (a.length < MIN_GROUP || b.length < MIN_GROUP) return null;
  const [va, vb] = [variance(a) / a.length, variance(b) / b.length];
  const error = Math.sqrt(va + vb);
  if (!(error > 0)) return null;
  const freedom = (va + vb) ** 2 / (va ** 2 / (a.length - 1) + vb ** 2 / (b.length - 1));
  const effect = mean(a) - mean(b);
  const reach = t95(freedom) * error;
  return { effect, low: effect - reach, high: effect + reach, with: a.length, without: b.length };
}
