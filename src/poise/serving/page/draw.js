// A reward as SVG: a curve, bars or stems by its family, on an axis that all responses of a panel share.
import { density } from "./risk.js";

const WIDTH = 440, HEIGHT = 64, BASE = 46, TOP = 6, SIDE = 8;
const STEPS = 160, MOST_STEMS = 60, BINS = 40;
export const DASHES = ["", "7 3", "2 2", "9 3 2 3", "5 2 1 2", "1 3", "12 4", "4 4"];
const SVG = "http://www.w3.org/2000/svg";

export function element(name, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// The range of rewards that holds nearly all of every row, with room for what the dial may say.
export function rangeOf(rows, values) {
  const low = Math.min(...rows.map((row) => Math.min(row.quantiles[0], row.mean)), ...values);
  const high = Math.max(...rows.map((row) => Math.max(row.quantiles.at(-1), row.mean)), ...values);
  const room = Math.max(0.06 * (high - low), 0.05 * Math.max(1e-3, Math.abs(high)), 1e-6);
  return [low - room, high + room];
}

// {curve: [[x, y]…]} for densities, {atoms: [[x, mass]…]} for what stands on points.
function shape(row, [low, high]) {
  const grid = Array.from({ length: STEPS + 1 }, (_, i) => low + ((high - low) * i) / STEPS);
  const p = row.params;
  if (row.family === "gaussian" && p.std > 0) return { curve: grid.map((x) => [x, density((x - p.mean) / p.std) / p.std]) };
  if (row.family === "categorical") {
    const top = Math.max(...p.logits), mass = p.logits.map((logit) => Math.exp(logit - top));
    const sum = mass.reduce((a, b) => a + b);
    return { atoms: row.support.map((x, i) => [x, mass[i] / sum]), bars: true };
  }
  if (row.family === "mixture" && p.stds.every((std) => std > 0)) {
    const at = (x) => p.means.reduce((sum, mean, i) => sum + (Math.exp(p.log_weights[i]) * density((x - mean) / p.stds[i])) / p.stds[i], 0);
    return { curve: grid.map((x) => [x, at(x)]) };
  }
  if (row.family === "point" || row.std === 0) return { atoms: [[row.mean, 1]] };
  const places = row.family === "mixture" ? p.means : row.family === "quantiles" ? p.values : p.draws ?? row.quantiles;
  const weights = row.family === "mixture" ? p.log_weights.map(Math.exp) : places.map(() => 1 / places.length);
  if (places.length <= MOST_STEMS) return { atoms: places.map((x, i) => [x, weights[i]]) };
  const width = (high - low) / BINS, counts = new Array(BINS).fill(0);
  places.forEach((x, i) => { counts[Math.min(BINS - 1, Math.max(0, Math.floor((x - low) / width)))] += weights[i]; });
  return { atoms: counts.map((mass, i) => [low + (i + 0.5) * width, mass]), bars: true };
}

export function rewardChart(row, value, range, colour, label) {
  const [low, high] = range;
  const at = (x) => SIDE + ((WIDTH - 2 * SIDE) * (x - low)) / (high - low);
  const { curve, atoms, bars } = shape(row, range);
  const top = Math.max(...(curve ?? atoms).map(([, y]) => y));
  const up = (y) => BASE - ((BASE - TOP) * y) / top;
  const dash = DASHES[row.index % DASHES.length];
  const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label });
  svg.append(element("line", { class: "axis", x1: SIDE, x2: WIDTH - SIDE, y1: BASE, y2: BASE }));
  for (const tick of ticks(low, high)) {
    svg.append(element("line", { class: "axis", x1: at(tick), x2: at(tick), y1: BASE, y2: BASE + 4 }));
    svg.append(element("text", { x: at(tick), y: BASE + 16, "text-anchor": "middle" }, text(tick)));
  }
  if (curve) {
    const line = curve.map(([x, y]) => `${at(x).toFixed(1)},${up(y).toFixed(1)}`).join(" L");
    svg.append(element("path", { d: `M${at(low)},${BASE} L${line} L${at(high)},${BASE}Z`, fill: colour, "fill-opacity": 0.16 }));
    svg.append(element("path", { d: `M${line}`, fill: "none", stroke: colour, "stroke-width": 2, "stroke-dasharray": dash }));
  } else {
    const gap = Math.min(...atoms.slice(1).map(([x], i) => at(x) - at(atoms[i][0])), 40);
    for (const [x, mass] of atoms) {
      if (bars) {
        const wide = Math.max(1, 0.8 * gap);
        svg.append(element("rect", { x: at(x) - wide / 2, width: wide, y: up(mass), height: Math.max(0, BASE - up(mass)), fill: colour, "fill-opacity": 0.35, stroke: colour }));
      } else {
        svg.append(element("line", { x1: at(x), x2: at(x), y1: BASE, y2: up(mass), stroke: colour, "stroke-width": atoms.length === 1 ? 3 : 1.5 }));
      }
    }
  }
  svg.append(element("circle", { class: "mean", cx: at(row.mean), cy: BASE, r: 4, stroke: colour }));
  const v = at(value);
  svg.append(element("path", { class: "worth", d: `M${v},${BASE - 1} l-6,-9 h12z`, fill: "var(--ink)" }));
  return svg;
}

function ticks(low, high) {
  const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((each) => each >= rough);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) found.push(i * step);
  return found;
}

export function text(value, digits = 3) {
  return Number(value.toPrecision(digits)).toString().replace("-", "−");
}
