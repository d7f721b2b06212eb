// Training curves, with the axes that make them readable.
import { draw, make, shown, whole } from "./dom.js";

const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [440, 180, 42, 22, 8];

// [record, colour, name] triples; records without a curve are left out.
export function curve(lines) {
  const drawn = lines.map(([record, colour, name]) => [points(record), colour, name]).filter(([one]) => one.length > 1);
  if (!drawn.length) return make("p", { class: "soft" }, "No curve was recorded.");
  const shownPoints = drawn.flatMap(([one]) => one.slice(Math.floor(one.length / 8)));
  const right = Math.max(...shownPoints.map(([step]) => step));
  const low = Math.min(...shownPoints.map(([, loss]) => loss)), high = Math.max(...shownPoints.map(([, loss]) => loss));
  const x = (step) => LEFT + ((WIDTH - LEFT) * step) / right;
  const y = (loss) => TOP + (HEIGHT - BOTTOM - TOP) * Math.max(0, 1 - (loss - low) / (high - low || 1));
  const svg = draw("svg", { class: "curve", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `training loss from ${shown(high, 2)} to ${shown(low, 2)}` });
  for (const loss of [high, (low + high) / 2, low]) {
    svg.append(draw("line", { class: "grid", x1: LEFT, x2: WIDTH, y1: y(loss), y2: y(loss) }), draw("text", { x: LEFT - 5, y: y(loss) + 4, "text-anchor": "end" }, shown(loss, 2)));
  }
  svg.append(draw("text", { x: LEFT, y: HEIGHT - 4 }, "0"), draw("text", { x: WIDTH, y: HEIGHT - 4, "text-anchor": "end" }, `step ${whole(right)}`));
  drawn.forEach(([one, colour, name], place) => {
    const above = one.filter(([, loss]) => loss <= high);
    svg.append(draw("polyline", { stroke: colour, points: above.map(([step, loss]) => `${x(step)},${y(loss)}`).join(" ") }));
    svg.append(draw("text", { x: WIDTH - 4, y: TOP + 14 + 15 * place, "text-anchor": "end", style: `fill: ${colour}` }, name));
  });
  return svg;
}

function points(record) {
  const measured = record?.training?.seeds?.[0]?.curve ?? [];
  return measured.filter((one) => one.train_loss !== undefined).map((one) => [one.step ?? 0, one.train_loss]);
}
