// The light and dark themes, and the colours of charts. Categories are variants of Okabe and Ito's colour-blind safe palette.
import { signal } from "@preact/signals";
import { scaleSequential } from "d3-scale";
import { interpolateYlGnBu } from "d3-scale-chromatic";

const KEY = "asi-arch.theme";
const prefersDark = matchMedia("(prefers-color-scheme: dark)");

export const dark = signal(storedTheme() ? storedTheme() === "dark" : prefersDark.matches);

function storedTheme(): string | null {
  try { return localStorage.getItem(KEY); } catch { return null; }
}

export function apply(): void {
  document.documentElement.dataset.theme = dark.value ? "dark" : "light";
}

export function toggle(): void {
  dark.value = !dark.value;
  apply();
  try { localStorage.setItem(KEY, dark.value ? "dark" : "light"); } catch { /* without storage the choice lasts until the page is closed */ }
}

prefersDark.addEventListener("change", (event) => {
  if (!storedTheme()) { dark.value = event.matches; apply(); }
});

export const CATEGORIES = {
  light: ["#0060a0", "#b35c00", "#00734f", "#9b3f7a", "#7a6a00", "#2a7fa8", "#a33c2a", "#4d4d4d"],
  dark: ["#6fb7ec", "#f0a54a", "#3fc79a", "#e28fc4", "#e5d14f", "#8ed0f0", "#f08a72", "#c8c8c8"],
};

export function category(index: number): string {
  const colours = CATEGORIES[dark.value ? "dark" : "light"];
  return colours[index % colours.length]!;
}

/** A colour scale from worst to best; the best has the highest contrast with the background. */
export function colourScale(worst: number, best: number): (value: number) => string {
  const interpolate = dark.value ? (t: number) => interpolateYlGnBu(0.82 - 0.78 * t) : (t: number) => interpolateYlGnBu(0.3 + 0.7 * t);
  const scale = scaleSequential(interpolate).domain([worst, best]).clamp(true);
  return worst === best ? () => scale(best) : scale;
}

/** The value of a CSS colour variable, for canvases. */
export function cssColour(name: string): string {
  void dark.value;
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}
