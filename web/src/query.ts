// The filter language: `loss<1.5 component:delta-rule -state:rejected below:c000012 gate`. A candidate must match all parts.
import { measureOf, MEASURES } from "./measures.js";
import type { Row } from "./records.js";

export interface Query {
  test: (row: Row) => boolean;
  problems: string[]; // one sentence for each invalid part
}

type Test = (row: Row) => boolean;

const FIELDS: Record<string, (row: Row, value: string) => boolean> = {
  component: (row, value) => (row.components ?? []).some((component) => component.includes(value)),
  move: (row, value) => (row.moves ?? []).some((move) => move.toLowerCase().includes(value)),
  state: (row, value) => row.state === value,
  kind: (row, value) => row.kind === value,
  stage: (row, value) => row.stage === value,
  outcome: (row, value) => row.outcome === value,
  name: (row, value) => row.name.toLowerCase().includes(value),
  id: (row, value) => row.id.includes(value),
  parent: (row, value) => row.parent === value,
  has: (row, value) => measureOf(value).value(row) !== undefined,
};
export const FIELD_NAMES = [...Object.keys(FIELDS), "below"];

const COMPARED = /^([\w:.-]+?)(<=|>=|<|>|=)(-?[\d.]+(?:e-?\d+)?)([kmg%]?)$/i;
const NAMED = /^(\w+):(.*)$/;
const UNITS: Record<string, number> = { "": 1, k: 1e3, m: 1e6, g: 1e9, "%": 0.01 };

/** Parse a filter; `rows` determine the known measures and the descendants for `below:`. */
export function parse(text: string, rows: readonly Row[]): Query {
  const problems: string[] = [];
  const tests: Test[] = [];
  for (const part of text.match(/-?\w+:"[^"]*"|"[^"]*"|\S+/g) ?? []) {
    const negated = part.startsWith("-") && part.length > 1;
    const test = parsePart((negated ? part.slice(1) : part).replaceAll('"', ""), rows, problems);
    if (test) tests.push(negated ? (row) => !test(row) : test);
  }
  return { test: (row) => tests.every((test) => test(row)), problems };
}

function parsePart(part: string, rows: readonly Row[], problems: string[]): Test | null {
  const compared = COMPARED.exec(part);
  if (compared) {
    const [, key = "", operator = "", digits = "", unit = ""] = compared;
    const measure = measureOf(MEASURES.some((known) => known.key === key) ? key : `task:${key.replace(/^task:/, "")}`);
    if (!rows.some((row) => measure.value(row) !== undefined)) {
      problems.push(`no candidate has a ${key}; measures are ${MEASURES.map((known) => known.key).join(", ")} and the tasks`);
      return null;
    }
    const limit = Number(digits) * (UNITS[unit.toLowerCase()] ?? 1);
    return (row) => {
      const value = measure.value(row);
      if (value === undefined) return false;
      switch (operator) {
        case "<": return value < limit;
        case "<=": return value <= limit;
        case ">": return value > limit;
        case ">=": return value >= limit;
        default: return value === limit;
      }
    };
  }
  const named = NAMED.exec(part);
  if (named) {
    const [, key = "", raw = ""] = named;
    const value = raw.toLowerCase();
    if (key === "below") return descendsFrom(value, rows);
    const field = FIELDS[key];
    if (field) return value ? (row) => field(row, value) : null;
    problems.push(`${key}: is not known; fields are ${FIELD_NAMES.join(", ")}`);
    return null;
  }
  const word = part.toLowerCase();
  return (row) => row.name.toLowerCase().includes(word) || row.id.includes(word);
}

function descendsFrom(id: string, rows: readonly Row[]): Test {
  const children = new Map<string, string[]>();
  for (const row of rows) {
    if (row.parent) children.set(row.parent, [...(children.get(row.parent) ?? []), row.id]);
  }
  const descendants = new Set<string>();
  const pending = [id];
  while (pending.length) {
    const current = pending.pop()!;
    if (descendants.has(current)) continue;
    descendants.add(current);
    pending.push(...(children.get(current) ?? []));
  }
  return (row) => descendants.has(row.id);
}
