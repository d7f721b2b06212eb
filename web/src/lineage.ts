// Who descends from whom, from the rows' parents.
import type { Row } from "./records.js";

export interface Family {
  roots: Row[];
  children: Map<string, Row[]>;
  byId: Map<string, Row>;
}

/** Children in the order of the run. What names an unknown parent, or would descend from itself, is a root. */
export function family(rows: readonly Row[]): Family {
  const byId = new Map(rows.map((row) => [row.id, row]));
  const children = new Map<string, Row[]>();
  const roots: Row[] = [];
  for (const row of [...rows].sort((a, b) => a.number - b.number || (a.id < b.id ? -1 : 1))) {
    if (row.parent && row.parent !== row.id && byId.has(row.parent)) {
      const siblings = children.get(row.parent);
      if (siblings) siblings.push(row); else children.set(row.parent, [row]);
    } else {
      roots.push(row);
    }
  }
  return { roots, children, byId };
}

/** From the root to the candidate, both included. */
export function pathTo(id: string, byId: ReadonlyMap<string, Row>): string[] {
  const path: string[] = [];
  for (let here: string | undefined = id; here && byId.has(here) && !path.includes(here); here = byId.get(here)!.parent) {
    path.unshift(here);
  }
  return path;
}

/** How many descend from each candidate. */
export function descendants(tree: Family): Map<string, number> {
  const counts = new Map<string, number>();
  const order: Row[] = [];
  const waiting = [...tree.roots];
  while (waiting.length) {
    const row = waiting.pop()!;
    order.push(row);
    waiting.push(...(tree.children.get(row.id) ?? []));
  }
  for (const row of order.reverse()) {
    counts.set(row.id, (tree.children.get(row.id) ?? []).reduce((sum, child) => sum + 1 + (counts.get(child.id) ?? 0), 0));
  }
  return counts;
}
