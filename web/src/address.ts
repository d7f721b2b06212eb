// The state of the page, stored in its address so that links and the back button restore it.
import { signal } from "@preact/signals";

export interface Address {
  run: string;
  view: View;
  candidate: string; // an id, or two as in c000007..c000009
  wide: string; // "1": the candidate has the full width
  filter: string;
  sort: string; // a measure; a leading - reverses the order
  columns: string;
  ticked: string;
  layout: string;
  colour: string;
  size: string;
  x: string;
  y: string;
  at: string; // frame of the playback
}

export const VIEWS = ["overview", "tree", "leaderboard", "explore"] as const;
export type View = (typeof VIEWS)[number];

const DEFAULTS: Address = {
  run: "", view: "overview", candidate: "", wide: "", filter: "", sort: "", columns: "", ticked: "",
  layout: "radial", colour: "fitness", size: "fitness", x: "", y: "", at: "",
};

function read(): Address {
  const parameters = new URLSearchParams(location.search);
  const parsed = { ...DEFAULTS };
  for (const key of Object.keys(DEFAULTS) as (keyof Address)[]) {
    const value = parameters.get(key);
    if (value !== null) (parsed as Record<string, string>)[key] = value;
  }
  if (!VIEWS.includes(parsed.view)) parsed.view = "overview";
  return parsed;
}

export const address = signal<Address>(read());

/** Change parts of the address; with `replace` the back button skips the change. */
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

/** The query string of the address with a change, for links. */
export function href(change: Partial<Address>): string {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries({ ...address.value, ...change })) {
    if (value !== DEFAULTS[key as keyof Address]) query.set(key, value);
  }
  return `?${query.toString()}`;
}

addEventListener("popstate", () => { address.value = read(); });
