// Light and dark, and the colours that drawings take. Categories are those of Okabe and Ito, told apart by all eyes.
import { signal } from "@preact/signals";
import { scaleSequential } from "d3-scale";
import { interpolateYlGnBu } from "d3-scale-chromatic";

const KEY = "asi-arch.theme";
const prefersDark = matchMedia("(prefers-color-scheme: dark)");

export const dark = signal(chosen() ? chosen() === "dark" : prefersDark.matches);

function chosen(): string | null {
  try { return localStorage.getItem(KEY); } catch { return null; }
}

export function apply(): void {
  document.documentElement.dataset.theme = dark.value ? "dark" : "light";
}

export function toggle(): void {
  dark.value = !dark.value;
  apply();
  try { localStorage.setItem(KEY, dark.value ? "dark" : "light"); } catch { /* the choice lasts as long as the page */ }
}

prefersDark.addEventListener("change", (event) => {
  if (!chosen()) { dark.value = event.matches; apply(); }
});

export const CATEGORIES = {
  light: ["#0060a0", "#b35c00", "#00734f", "#9b3f7a", "#7a6a00", "#2a7fa8", "#a33c2a", "#4d4d4d"],
  dark: ["#6fb7ec", "#f0a54a", "#3fc79a", "#e28fc4", "#e5d14f", "#8ed0f0", "#f08a72", "#c8c8c8"],
};

export function category(place: number): string {
  const colours = CATEGORIES[dark.value ? "dark" : "light"];
  return colours[place % colours.length]!;
}

/** Worst to best over a range; the best stands out most from the background. */
export function ramp(worst: number, best: number): (value: number) => string {
  const interpolate = dark.value ? (t: number) => interpolateYlGnBu(0.82 - 0.78 * t) : (t: number) => interpolateYlGnBu(0.3 + 0.7 * t);
  const scale = scaleSequential(interpolate).domain([worst, best]).clamp(true);
  return worst === best ? () => scale(best) : scale;
}

/** A colour of the style sheet, for what draws on a canvas. */
export function token(name: string): string {
  void dark.value;
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}
