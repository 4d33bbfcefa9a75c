/** The list of layers, and the coefficients and kernels of the chosen one. */
import type { LayerResult, Network } from "./network";
import { colourLimit, largestMagnitude, paintBars, paintKernel, paintValues } from "./plots";
import { percent, type Slot } from "./slot";

/** Draws the list; `choose` is called with the number of a layer. */
export function showList(network: Network, chosen: number, choose: (layer: number) => void): void {
  const list = find(".list");
  list.replaceChildren(
    ...network.info.layers.map((layer, index) => {
      const row = document.createElement("label");
      row.className = "layer";
      row.innerHTML = `
        <input type="radio" name="layer" />
        <span class="name"></span><span class="shape">${layer.shape.join(" × ")}</span>
        <span class="bar a"><span></span><i></i></span><span class="moved a"></span>
        <span class="bar b"><span></span><i></i></span><span class="moved b"></span>`;
      row.querySelector(".name")!.textContent = layer.name;
      const radio = row.querySelector("input")!;
      radio.checked = index === chosen;
      radio.addEventListener("change", () => choose(index));
      return row;
    }),
  );
}

/** Shows how far each kernel of each picture is from its mean. */
export function showMoved(network: Network, slots: Slot[]): void {
  const { layers } = network.info;
  const all = [...slots.flatMap(({ result }) => result?.layers.map((layer) => layer.moved) ?? []), ...layers.map((l) => l.movement)];
  const limit = Math.max(0.05, ...all);
  find(".list")
    .querySelectorAll<HTMLElement>(".layer")
    .forEach((row, index) => {
      for (const slot of slots) {
        const series = slot.name.toLowerCase();
        const moved = slot.result?.layers[index]?.moved;
        const bar = row.querySelector<HTMLElement>(`.bar.${series}`)!;
        bar.querySelector<HTMLElement>("span")!.style.width = `${(100 * (moved ?? 0)) / limit}%`;
        bar.querySelector<HTMLElement>("i")!.style.left = `${(100 * layers[index]!.movement) / limit}%`;
        row.querySelector(`.moved.${series}`)!.textContent = moved === undefined ? "" : `${slot.name} ${percent(moved)}`;
      }
    });
}

/** Shows one layer for both pictures. */
export function showDetail(network: Network, index: number, slots: Slot[]): void {
  const layer = network.info.layers[index];
  find("#detail").hidden = !layer;
  if (!layer) return;
  find("#detail-title").textContent = `${layer.name}: ${layer.kind}`;
  const shown = slots.flatMap((slot) => (slot.result ? [{ slot, layer: slot.result.layers[index]! }] : []));
  find("#detail-finding").textContent = kernelSentence(shown);
  find("#coefficients").replaceChildren(...coefficientFigures(shown));
  paintCanvases(find("#coefficients"));
  const { neutral, mean } = network.references[index]!;
  const limit = colourLimit(neutral, mean, ...shown.map(({ layer: { kernel } }) => kernel));
  const differences = shown.map(({ slot, layer: { kernel } }) => ({ slot, values: kernel.map((value, i) => value - mean[i]!) }));
  const range = colourLimit(...differences.map(({ values }) => values));
  const kernels = find("#kernels");
  const panels: [string, string, Float32Array, number][] = [
    ["W₀", "the kernel at neutral coefficients", neutral, limit],
    ...shown.map(({ slot, layer: { kernel } }): [string, string, Float32Array, number] => [`W(${slot.name})`, `the kernel for picture ${slot.name}`, kernel, limit]),
    ["mean W", `over ${network.info.images} test images`, mean, limit],
    ...differences.map(({ slot, values }): [string, string, Float32Array, number] => [`W(${slot.name}) − mean`, `what picture ${slot.name} changes`, values, range]),
  ];
  kernels.replaceChildren(
    ...panels.map(([title, what, values, most]) => {
      const { element, canvas } = figure(title, `${what}, ±${most.toPrecision(2)}`);
      paintKernel(canvas, values, layer.shape, most);
      return element;
    }),
  );
  kernels.className = layer.shape[1]! * (layer.shape[3] ?? 1) > 2 * layer.shape[0]! * (layer.shape[2] ?? 1) ? "wide" : "";
  kernels.style.setProperty("--panels", String(1 + shown.length));
  find("#kernels-note").textContent =
    `Rows are ${layer.shape[0]} output channels, columns ${layer.shape[1]} input channels` +
    (layer.shape.length > 2 ? `, each tile ${layer.shape.slice(2).join(" × ")} taps. ` : ". ") +
    "Purple is negative, green positive; the upper and the lower row have a scale each.";
}

type Shown = { slot: Slot; layer: LayerResult }[];

function kernelSentence(shown: Shown): string {
  if (shown.length === 0) return "Draw a picture to see its kernel.";
  const parts = shown.map(({ slot, layer }) => `${percent(layer.moved)} from its mean for picture ${slot.name}`);
  const [first, second] = shown.map(({ layer }) => layer.kernel);
  const apart = first && second ? ` The two kernels differ by ${percent(distance(first, second))}.` : "";
  return `The kernel is ${parts.join(", ")}.${apart}`;
}

function distance(a: Float32Array, b: Float32Array): number {
  let [difference, norm] = [0, 0];
  a.forEach((value, i) => {
    difference += (value - b[i]!) ** 2;
    norm += value ** 2 / 2 + b[i]! ** 2 / 2;
  });
  return Math.sqrt(difference / norm);
}

/** One figure for each coefficient: bars of both pictures, or a matrix of each. */
function coefficientFigures(shown: Shown): HTMLElement[] {
  const first = shown[0]?.layer.coefficients ?? [];
  return first.flatMap(({ name, info, values }, index) => {
    const all = shown.map(({ slot, layer }) => ({ slot, values: layer.coefficients[index]!.values }));
    if (info.role === "matrix" || values.dims.length > 1) {
      const gate = info.role === "gate";
      const centre = gate ? (info.limit ?? 2) / 2 : 0;
      const limit = gate ? centre : largestMagnitude(...all.map((each) => each.values.data));
      return all.map((each) => {
        const title = `${info.symbol}(${each.slot.name})`;
        const range = gate ? `0 to ${2 * centre}` : `±${limit.toPrecision(2)}`;
        const made = figure(title, `${name}, ${each.values.dims.join(" × ")}, ${range}`);
        made.element.classList.add("matrix");
        paintValues(made.canvas, each.values, limit, centre);
        return made.element;
      });
    }
    const made = figure(`${info.symbol}(x)`, `${name}: one bar for each ${info.element}, A and B`);
    made.element.classList.add("bars");
    bars.set(made.canvas, { series: all.map((each) => each.values.data), limit: info.role === "mixing" ? 1 : info.limit });
    return [made.element];
  });
}

/** What the canvases of bars show; they are drawn once their width is known. */
const bars = new WeakMap<HTMLCanvasElement, { series: Float32Array[]; limit: number | null }>();

function paintCanvases(within: HTMLElement): void {
  within.querySelectorAll("canvas").forEach((canvas) => {
    const shown = bars.get(canvas);
    if (shown) paintBars(canvas, shown.series, shown.limit);
  });
}

function figure(title: string, caption: string): { element: HTMLElement; canvas: HTMLCanvasElement } {
  const element = document.createElement("figure");
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${title}: ${caption}`);
  const text = document.createElement("figcaption");
  const strong = document.createElement("strong");
  strong.textContent = title;
  text.append(strong, ` ${caption}`);
  element.append(text, canvas);
  return { element, canvas };
}

export function find(selector: string): HTMLElement {
  return document.querySelector<HTMLElement>(selector)!;
}
