// Draws the tree on a canvas: zoom and pan by d3-zoom, nodes with a minimum size, labels where there is room, a minimap.
import { quadtree, type Quadtree } from "d3-quadtree";
import { select } from "d3-selection";
import "d3-transition";
import { zoom, zoomIdentity, type ZoomBehavior, type ZoomTransform } from "d3-zoom";
import { cssColour } from "../theme.js";
import type { Layout, LayoutNode } from "./layout.js";

export interface Appearance {
  colour: (node: LayoutNode) => string | null; // null: not measured, drawn hollow
  size: (node: LayoutNode) => number; // 0 to 1
  label: (node: LayoutNode) => string;
  best: readonly string[]; // labelled first; best first
  chosen: string;
  path: ReadonlySet<string>;
  ancestry: ReadonlySet<string>; // of the best
  bright: ((node: LayoutNode) => boolean) | null; // null: all
  visible: ((node: LayoutNode) => boolean) | null; // null: all; the playback hides later candidates
}

const EDGE = 40;
const CROWDED = 1800; // edges in the window, from which on they are paler: thousands would fill areas
const MINI = { width: 168, height: 116 };

export class TreeCanvas {
  hovered: LayoutNode | null = null;
  onChoose: (node: LayoutNode) => void = () => {};
  onFold: (node: LayoutNode) => void = () => {};
  onHover: (node: LayoutNode | null, x: number, y: number) => void = () => {};
  private layout: Layout = { nodes: [], byId: new Map(), box: { x0: 0, y0: 0, x1: 1, y1: 1 }, kind: "radial" };
  private appearance!: Appearance;
  private transform: ZoomTransform = zoomIdentity;
  private readonly zoom: ZoomBehavior<HTMLCanvasElement, unknown>;
  private index: Quadtree<LayoutNode> = quadtree<LayoutNode>();
  private width = 0;
  private height = 0;
  private ordered: LayoutNode[] = [];
  private frameRequested = false;
  private followed = ""; // id of the node that stays visible when the canvas is resized
  private touched = false; // whether the user has zoomed or panned; a new layout then keeps the view
  private readonly observer: ResizeObserver;
  private miniImage: ImageBitmap | HTMLCanvasElement | null = null;

  constructor(private readonly canvas: HTMLCanvasElement, private readonly mini: HTMLCanvasElement) {
    this.zoom = zoom<HTMLCanvasElement, unknown>()
      .scaleExtent([0.02, 12])
      .on("zoom", (event: { transform: ZoomTransform; sourceEvent: Event | null }) => {
        this.transform = event.transform;
        if (event.sourceEvent) this.touched = true;
        this.request();
      });
    select(canvas).call(this.zoom).on("dblclick.zoom", null);
    canvas.addEventListener("pointermove", (event) => this.hover(event));
    canvas.addEventListener("pointerleave", () => this.setHovered(null, 0, 0));
    canvas.addEventListener("click", (event) => {
      const node = this.nodeAt(event, event.detail === 0 ? 0 : 14);
      if (node) this.onChoose(node);
    });
    canvas.addEventListener("dblclick", (event) => {
      const node = this.nodeAt(event, 14);
      if (node) this.onFold(node);
    });
    mini.addEventListener("pointerdown", (event) => { mini.setPointerCapture(event.pointerId); this.panByMini(event); });
    mini.addEventListener("pointermove", (event) => { if (event.buttons) this.panByMini(event); });
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(canvas.parentElement!);
    this.resize();
  }

  close(): void {
    this.observer.disconnect();
    select(this.canvas).on(".zoom", null);
  }

  get aspect(): number { return this.width / Math.max(1, this.height); }

  setLayout(layout: Layout): void {
    const kindChanged = layout.kind !== this.layout.kind;
    const countChanged = layout.nodes.length !== this.layout.nodes.length;
    this.layout = layout;
    this.index = quadtree<LayoutNode>().x((node) => node.x).y((node) => node.y).addAll(layout.nodes);
    this.canvas.dataset.nodes = String(layout.nodes.length);
    if (kindChanged || !this.touched) this.fit(false);
    if (kindChanged || countChanged) this.miniImage = null;
  }

  setAppearance(appearance: Appearance): void {
    this.appearance = appearance;
    this.ordered = [...this.layout.nodes].sort((a, b) => appearance.size(a) - appearance.size(b));
    this.miniImage = null;
    this.request();
  }

  fit(smooth = true): void {
    this.touched = false;
    if (!this.width) return;
    const { x0, y0, x1, y1 } = this.layout.box;
    const room = this.layout.kind === "tidy" ? 110 : EDGE; // labels are to the right of the leaves
    const scale = Math.min((this.width - EDGE - room) / Math.max(1, x1 - x0), (this.height - 2 * EDGE) / Math.max(1, y1 - y0), 2.5);
    const centre = this.layout.kind === "tidy" ? (this.width - room + EDGE) / 2 : this.width / 2;
    this.zoom.scaleExtent([scale / 2, 14]);
    this.move(zoomIdentity.translate(centre - (scale * (x0 + x1)) / 2, this.height / 2 - (scale * (y0 + y1)) / 2).scale(scale), smooth);
  }

  zoomBy(factor: number): void {
    this.touched = true;
    select(this.canvas).call(this.zoom.scaleBy, factor);
  }

  /** Centre a node unless it is well inside the window. */
  panTo(id: string): void {
    const node = this.layout.byId.get(id);
    this.followed = id;
    if (!node || !this.width) return;
    if (!this.touched) { this.fit(false); return; } // the whole tree is visible
    const [x, y] = this.transform.apply([node.x, node.y]);
    const margin = Math.min(120, this.width / 4, this.height / 4);
    if (x > margin && x < this.width - margin && y > margin && y < this.height - margin) return;
    this.touched = true;
    const k = this.transform.k;
    this.move(zoomIdentity.translate(this.width / 2 - k * node.x, this.height / 2 - k * node.y).scale(k), true);
  }

  /** The position of a node on the canvas, for tests. */
  at(id: string): [number, number] | null {
    const node = this.layout.byId.get(id);
    return node ? this.transform.apply([node.x, node.y]) : null;
  }

  request(): void {
    if (this.frameRequested) return;
    this.frameRequested = true;
    requestAnimationFrame(() => { this.frameRequested = false; this.draw(); });
  }

  private move(to: ZoomTransform, smooth: boolean): void {
    const noMotion = matchMedia("(prefers-reduced-motion: reduce)").matches || document.hidden;
    if (smooth && !noMotion) select(this.canvas).transition().duration(250).call(this.zoom.transform, to);
    else select(this.canvas).call(this.zoom.transform, to);
  }

  private resize(): void {
    const box = this.canvas.parentElement!.getBoundingClientRect();
    const first = this.width === 0;
    if (box.width === this.width && box.height === this.height) return;
    this.width = box.width;
    this.height = box.height;
    for (const [canvas, width, height] of [[this.canvas, box.width, box.height], [this.mini, MINI.width, MINI.height]] as const) {
      canvas.width = Math.round(width * devicePixelRatio);
      canvas.height = Math.round(height * devicePixelRatio);
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
    if (first || !this.touched) this.fit(false);
    else if (this.followed) this.panTo(this.followed);
    this.request();
  }

  private nodeAt(event: MouseEvent, reach: number): LayoutNode | null {
    const box = this.canvas.getBoundingClientRect();
    const [x, y] = this.transform.invert([event.clientX - box.left, event.clientY - box.top]);
    const node = this.index.find(x, y, reach / this.transform.k);
    return node && (!this.appearance.visible || this.appearance.visible(node)) ? node : null;
  }

  private hover(event: PointerEvent): void {
    if (event.buttons || event.pointerType === "touch") return;
    this.setHovered(this.nodeAt(event, 12), event.offsetX, event.offsetY);
  }

  private setHovered(node: LayoutNode | null, x: number, y: number): void {
    this.canvas.style.cursor = node ? "pointer" : "grab";
    if (node !== this.hovered) { this.hovered = node; this.request(); }
    this.onHover(node, x, y);
  }

  private radius(node: LayoutNode): number {
    return Math.min(11, (1.7 + 3.2 * this.appearance.size(node)) * Math.min(2.4, Math.max(1, Math.sqrt(this.transform.k * 1.8))));
  }

  private draw(): void {
    if (!this.appearance || !this.width) return;
    const started = performance.now();
    const context = this.canvas.getContext("2d")!;
    const { k } = this.transform;
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    this.edges(context);
    const ink = cssColour("ink"), card = cssColour("card"), quiet = cssColour("strong"), accent = cssColour("accent");
    const { visible, bright, chosen, path } = this.appearance;
    for (const node of this.ordered) {
      if (visible && !visible(node)) continue;
      const [x, y] = this.transform.apply([node.x, node.y]);
      if (x < -20 || y < -20 || x > this.width + 20 || y > this.height + 20) continue;
      const radius = this.radius(node);
      const colour = this.appearance.colour(node);
      context.globalAlpha = bright && !bright(node) ? 0.12 : 1;
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.fillStyle = colour ?? card;
      context.fill();
      if (!colour || radius > 3.5) {
        context.lineWidth = colour ? 0.75 : 1.2;
        context.strokeStyle = colour ? card : quiet;
        context.stroke();
      }
      if (node.hidden) {
        context.strokeStyle = ink;
        context.lineWidth = 1.5;
        context.beginPath();
        context.arc(x, y, radius + 2.5, 0, 2 * Math.PI);
        context.stroke();
      }
      if (node.row.id === chosen || path.has(node.row.id) || node === this.hovered) {
        context.globalAlpha = 1;
        context.strokeStyle = accent;
        context.lineWidth = node.row.id === chosen ? 3 : 1.5;
        context.beginPath();
        context.arc(x, y, radius + (node.row.id === chosen ? 4 : 2), 0, 2 * Math.PI);
        context.stroke();
      }
    }
    context.globalAlpha = 1;
    this.labels(context, ink, card);
    this.minimap();
    this.canvas.dataset.drawn = String(this.ordered.length);
    this.canvas.dataset.milliseconds = (performance.now() - started).toFixed(1);
    this.canvas.dataset.scale = k.toFixed(4);
  }

  private edges(context: CanvasRenderingContext2D): void {
    const { visible, path, ancestry } = this.appearance;
    const drawn = this.layout.nodes.filter((node) => node.parent && (!visible || visible(node)) && this.isInWindow(node.parent, node));
    const thin = Math.min(1.5, Math.max(0.6, this.transform.k)), strong = cssColour("strong");
    const alpha = 0.75 * Math.min(1, CROWDED / Math.max(1, drawn.length));
    const draw = (nodes: LayoutNode[], width: number, colour: string, opacity: number) => {
      Object.assign(context, { lineWidth: width, strokeStyle: colour, globalAlpha: opacity });
      context.beginPath();
      for (const node of nodes) this.edge(context, node.parent!, node);
      context.stroke();
    };
    draw(drawn.filter(({ row }) => !path.has(row.id) && !ancestry.has(row.id)), thin, strong, alpha);
    draw(drawn.filter(({ row }) => !path.has(row.id) && ancestry.has(row.id)), thin, strong, 0.75);
    draw(drawn.filter(({ row }) => path.has(row.id)), 2.5, cssColour("accent"), 1);
    context.globalAlpha = 1;
    this.canvas.dataset.opacity = alpha.toFixed(2);
  }

  private isInWindow(from: LayoutNode, to: LayoutNode): boolean {
    const [x0, y0] = this.transform.apply([from.x, from.y]), [x1, y1] = this.transform.apply([to.x, to.y]);
    return Math.max(x0, x1) >= 0 && Math.max(y0, y1) >= 0 && Math.min(x0, x1) <= this.width && Math.min(y0, y1) <= this.height;
  }

  private edge(context: CanvasRenderingContext2D, from: LayoutNode, to: LayoutNode): void {
    const [x0, y0] = this.transform.apply([from.x, from.y]), [x1, y1] = this.transform.apply([to.x, to.y]);
    context.moveTo(x0, y0);
    if (this.layout.kind === "tidy") {
      const middle = (x0 + x1) / 2;
      context.bezierCurveTo(middle, y0, middle, y1, x1, y1);
      return;
    }
    const [cx, cy] = this.transform.apply([0, 0]);
    const inner = Math.hypot(x0 - cx, y0 - cy), outer = Math.hypot(x1 - cx, y1 - cy), middle = (inner + outer) / 2;
    const point = (angle: number) => [cx + middle * Math.sin(angle), cy - middle * Math.cos(angle)] as const;
    const [ax, ay] = inner < 1 ? point(to.angle) : point(from.angle), [bx, by] = point(to.angle);
    context.bezierCurveTo(ax, ay, bx, by, x1, y1);
  }

  /** Labels of the chosen, the hovered and the best nodes; when zoomed in, of others where there is room. */
  private labels(context: CanvasRenderingContext2D, ink: string, card: string): void {
    const { best, chosen, visible, bright } = this.appearance;
    const prioritised = [this.layout.byId.get(chosen), this.hovered, ...best.map((id) => this.layout.byId.get(id))];
    const zoomedIn: LayoutNode[] = [];
    if (this.transform.k > 0.45) {
      const inside = [...this.ordered].reverse().filter((node) => {
        const [x, y] = this.transform.apply([node.x, node.y]);
        return x > 0 && y > 0 && x < this.width && y < this.height && (!bright || bright(node));
      });
      zoomedIn.push(...inside.slice(0, 240));
    }
    context.textBaseline = "middle";
    context.lineJoin = "round";
    const occupied: [number, number, number, number][] = [];
    const names: string[] = [];
    const seen = new Set<string>();
    for (const node of [...prioritised, ...zoomedIn]) {
      if (!node || seen.has(node.row.id) || (visible && !visible(node))) continue;
      seen.add(node.row.id);
      const [x, y] = this.transform.apply([node.x, node.y]);
      if (x < 0 || y < 0 || x > this.width || y > this.height) continue;
      const text = this.appearance.label(node) + (node.hidden ? ` +${node.hidden}` : "");
      const forced = node.row.id === chosen || node === this.hovered;
      context.font = forced ? "600 12px system-ui, sans-serif" : "12px system-ui, sans-serif";
      const width = context.measureText(text).width, reach = this.radius(node) + (forced ? 8 : 4);
      const positions: [number, number][] = [[x + reach, y], [x - reach - width, y], [x - width / 2, y - reach - 7], [x - width / 2, y + reach + 7]];
      const position = positions.find(([left, middle]) => left > 2 && left + width < this.width - 2 && middle > 8 && middle < this.height - 8
        && !occupied.some(([a, b, c, d]) => left < c && left + width > a && middle - 8 < d && middle + 8 > b)) ?? (forced ? positions[0] : undefined);
      if (!position) continue;
      occupied.push([position[0] - 3, position[1] - 8, position[0] + width + 3, position[1] + 8]);
      context.lineWidth = 3.5;
      context.strokeStyle = card;
      context.strokeText(text, position[0], position[1]);
      context.fillStyle = ink;
      context.fillText(text, position[0], position[1]);
      names.push(text);
    }
    this.canvas.dataset.labels = String(names.length);
  }

  private miniTransform(): { k: number; x: number; y: number } {
    const { x0, y0, x1, y1 } = this.layout.box;
    const k = Math.min((MINI.width - 12) / Math.max(1, x1 - x0), (MINI.height - 12) / Math.max(1, y1 - y0));
    return { k, x: MINI.width / 2 - (k * (x0 + x1)) / 2, y: MINI.height / 2 - (k * (y0 + y1)) / 2 };
  }

  private minimap(): void {
    const { k, x, y } = this.miniTransform();
    const [left, top] = this.transform.invert([0, 0]), [right, bottom] = this.transform.invert([this.width, this.height]);
    const { box } = this.layout;
    this.mini.hidden = left <= box.x0 && top <= box.y0 && right >= box.x1 && bottom >= box.y1; // the whole tree is visible
    if (this.mini.hidden) return;
    const context = this.mini.getContext("2d")!;
    if (!this.miniImage) {
      const image = document.createElement("canvas");
      image.width = this.mini.width;
      image.height = this.mini.height;
      const imageContext = image.getContext("2d")!;
      imageContext.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
      for (const node of this.ordered) {
        if (this.appearance.visible && !this.appearance.visible(node)) continue;
        imageContext.fillStyle = this.appearance.colour(node) ?? cssColour("strong");
        imageContext.fillRect(x + k * node.x - 0.75, y + k * node.y - 0.75, 1.5, 1.5);
      }
      this.miniImage = image;
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.mini.width, this.mini.height);
    context.drawImage(this.miniImage, 0, 0);
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.strokeStyle = cssColour("accent");
    context.lineWidth = 1.5;
    context.strokeRect(x + k * left, y + k * top, k * (right - left), k * (bottom - top));
  }

  private panByMini(event: PointerEvent): void {
    const { k, x, y } = this.miniTransform();
    this.touched = true;
    select(this.canvas).call(this.zoom.translateTo, (event.offsetX - x) / k, (event.offsetY - y) / k);
  }
}
