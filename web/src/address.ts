// What the page shows is in its address, so that a link or the back button brings it again.
import { signal } from "@preact/signals";

export interface Address {
  run: string;
  view: View;
  candidate: string; // an id, or two as in c000007..c000009
  wide: string; // "1": the candidate takes the whole width
  filter: string;
  sort: string; // a measure, with - in front for the other way round
  columns: string;
  ticked: string;
  layout: string;
  colour: string;
  size: string;
  x: string;
  y: string;
  at: string; // place of the playback
}

export const VIEWS = ["overview", "tree", "leaderboard", "explore"] as const;
export type View = (typeof VIEWS)[number];

const DEFAULTS: Address = {
  run: "", view: "overview", candidate: "", wide: "", filter: "", sort: "", columns: "", ticked: "",
  layout: "radial", colour: "fitness", size: "fitness", x: "", y: "", at: "",
};

function read(): Address {
  const asked = new URLSearchParams(location.search);
  const found = { ...DEFAULTS };
  for (const key of Object.keys(DEFAULTS) as (keyof Address)[]) {
    const value = asked.get(key);
    if (value !== null) (found as Record<string, string>)[key] = value;
  }
  if (!VIEWS.includes(found.view)) found.view = "overview";
  return found;
}

export const address = signal<Address>(read());

/** Change parts of the address; `replace` leaves no step for the back button. */
export function go(change: Partial<Address>, replace = false): void {
  const next = { ...address.peek(), ...change };
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(next)) {
    if (value !== DEFAULTS[key as keyof Address]) query.set(key, value);
  }
  const text = query.toString();
  const url = text ? `?${text}` : location.pathname;
  if (url !== location.search) history[replace ? "replaceState" : "pushState"](null, "", url);
  address.value = next;
}

/** The address of a change, for a link. */
export function href(change: Partial<Address>): string {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries({ ...address.value, ...change })) {
    if (value !== DEFAULTS[key as keyof Address]) query.set(key, value);
  }
  return `?${query.toString()}`;
}

addEventListener("popstate", () => { address.value = read(); });
