// Positions of the nodes of a forest, in coordinates that grow with the number of nodes; folded branches take no room.
import { hierarchy, tree as tidyTree, type HierarchyPointNode } from "d3-hierarchy";
import type { Forest } from "../lineage.js";
import type { Row } from "../records.js";

export interface LayoutNode {
  row: Row;
  x: number;
  y: number;
  depth: number;
  angle: number; // of the radial layout, else 0
  parent: LayoutNode | null;
  hidden: number; // number of folded descendants
}

export interface Layout {
  nodes: LayoutNode[];
  byId: Map<string, LayoutNode>;
  box: { x0: number; y0: number; x1: number; y1: number };
  kind: string;
}

interface Branch { row: Row | null; children: Branch[] }

const GAP = 14; // between neighbouring leaves of the tidy layout
const ARC = 8; // between neighbouring leaves on the outermost ring
const RING = 90; // between generations of the radial layout, at least

export function layout(tree: Forest, folded: ReadonlySet<string>, below: ReadonlyMap<string, number>, kind: string, aspect: number): Layout {
  const top: Branch = { row: null, children: [] };
  const pending: [Branch, readonly Row[]][] = [[top, tree.roots]];
  while (pending.length) {
    const [parent, rows] = pending.pop()!;
    for (const row of rows) {
      const branch: Branch = { row, children: [] };
      parent.children.push(branch);
      if (!folded.has(row.id)) {
        const children = tree.children.get(row.id);
        if (children) pending.push([branch, children]);
      }
    }
  }
  if (kind === "radial") centreLargest(top);
  const single = top.children.length === 1 ? top.children[0]! : top;
  const root = hierarchy<Branch>(single, (branch) => branch.children);
  const placed = kind === "radial" ? radial(root) : tidy(root, aspect);
  const byId = new Map<string, LayoutNode>();
  const nodes: LayoutNode[] = [];
  placed.each((node) => {
    const row = node.data.row;
    if (!row) return;
    const angle = kind === "radial" ? node.x : 0;
    const [x, y] = kind === "radial" ? [node.y * Math.sin(angle), -node.y * Math.cos(angle)] : [node.y, node.x];
    const layoutNode: LayoutNode = {
      row, x, y, depth: node.depth, angle, parent: node.parent?.data.row ? byId.get(node.parent.data.row.id) ?? null : null,
      hidden: folded.has(row.id) ? below.get(row.id) ?? 0 : 0,
    };
    nodes.push(layoutNode);
    byId.set(row.id, layoutNode);
  });
  const xs = nodes.map((node) => node.x), ys = nodes.map((node) => node.y);
  const box = nodes.length
    ? { x0: min(xs), y0: min(ys), x1: max(xs), y1: max(ys) }
    : { x0: 0, y0: 0, x1: 1, y1: 1 };
  return { nodes, byId, box, kind };
}

/** Order children with the largest subtree in the middle, so that long lineages are straight. */
function centreLargest(top: Branch): void {
  const order: Branch[] = [];
  const pending = [top];
  while (pending.length) {
    const branch = pending.pop()!;
    order.push(branch);
    pending.push(...branch.children);
  }
  const sizes = new Map<Branch, number>();
  for (const branch of order.reverse()) {
    sizes.set(branch, branch.children.reduce((sum, child) => sum + sizes.get(child)!, 1));
    const bySize = [...branch.children].sort((a, b) => sizes.get(b)! - sizes.get(a)!);
    branch.children = [];
    bySize.forEach((child, index) => (index % 2 ? branch.children.push(child) : branch.children.unshift(child)));
  }
}

function tidy(root: ReturnType<typeof hierarchy<Branch>>, aspect: number): HierarchyPointNode<Branch> {
  const placed = tidyTree<Branch>().nodeSize([GAP, 1]).separation((a, b) => (a.parent === b.parent ? 1 : 1.5))(root);
  let low = Infinity, high = -Infinity;
  placed.each((node) => { low = Math.min(low, node.x); high = Math.max(high, node.x); });
  // Spread the generations so that the tree has the aspect ratio of the window.
  const width = Math.max(160, (high - low + GAP) * aspect);
  const step = Math.max(120, width / Math.max(1, root.height));
  placed.each((node) => { node.y = node.depth * step; });
  return placed;
}

/** All leaves have equal angles, so that each branch has a sector of its own; a parent is in the middle of its sector. */
function radial(root: ReturnType<typeof hierarchy<Branch>>): HierarchyPointNode<Branch> {
  const placed = root as HierarchyPointNode<Branch>;
  const leaves = root.leaves().length;
  const step = Math.max(RING, (leaves * ARC) / (2 * Math.PI) / Math.max(1, root.height));
  let next = 0;
  placed.eachAfter((node) => {
    const first = node.children?.[0], last = node.children?.at(-1);
    node.x = first && last ? (first.x + last.x) / 2 : (next++ / leaves) * 2 * Math.PI;
    node.y = node.depth * step;
  });
  return placed;
}

const min = (values: number[]) => values.reduce((a, b) => Math.min(a, b), Infinity);
const max = (values: number[]) => values.reduce((a, b) => Math.max(a, b), -Infinity);
