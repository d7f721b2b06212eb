// The forest of candidates, from the parents in the rows.
import type { Row } from "./records.js";

export interface Forest {
  roots: Row[];
  children: Map<string, Row[]>;
  byId: Map<string, Row>;
}

/** Children in the order of the run. A candidate whose parent is unknown or itself is a root. */
export function forest(rows: readonly Row[]): Forest {
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

/** Ids from the root to the candidate, both included. */
export function pathFromRoot(id: string, byId: ReadonlyMap<string, Row>): string[] {
  const path: string[] = [];
  for (let current: string | undefined = id; current && byId.has(current) && !path.includes(current); current = byId.get(current)!.parent) {
    path.unshift(current);
  }
  return path;
}

/** The number of descendants of each candidate. */
export function descendantCounts(tree: Forest): Map<string, number> {
  const counts = new Map<string, number>();
  const order: Row[] = [];
  const pending = [...tree.roots];
  while (pending.length) {
    const row = pending.pop()!;
    order.push(row);
    pending.push(...(tree.children.get(row.id) ?? []));
  }
  for (const row of order.reverse()) {
    counts.set(row.id, (tree.children.get(row.id) ?? []).reduce((sum, child) => sum + 1 + (counts.get(child.id) ?? 0), 0));
  }
  return counts;
}
