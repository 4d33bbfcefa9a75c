/** Draws coefficients and kernels on canvases, in the colours of the page. */
import type { Values } from "./network";

const CELL = 10;
/** Largest height of a matrix, in rem. */
const HIGHEST = 21;
const BAR_HEIGHT = 96;

function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function channels(hex: string): [number, number, number] {
  const value = parseInt(hex.slice(1), 16);
  return [(value >> 16) & 255, (value >> 8) & 255, value & 255];
}

export function largestMagnitude(...arrays: Float32Array[]): number {
  let found = 0;
  for (const array of arrays) for (const value of array) found = Math.max(found, Math.abs(value));
  return found || 1;
}

/** Where the colours of a kernel end: three times the root mean square, so that few large numbers do not hide the others. */
export function colourLimit(...arrays: Float32Array[]): number {
  let [sum, count] = [0, 0];
  for (const array of arrays) {
    for (const value of array) sum += value ** 2;
    count += array.length;
  }
  return Math.min(3 * Math.sqrt(sum / Math.max(count, 1)), largestMagnitude(...arrays)) || 1;
}

/** Draws numbers as a picture: negative, zero and positive in the three colours of the page's scale. */
function paintMatrix(
  canvas: HTMLCanvasElement,
  rows: number,
  columns: number,
  limit: number,
  value: (row: number, column: number) => number,
): void {
  canvas.width = columns;
  canvas.height = rows;
  canvas.style.maxWidth = `${(HIGHEST * columns) / rows}rem`;
  const [low, middle, high] = [channels(colour("--low")), channels(colour("--middle")), channels(colour("--high"))];
  const context = canvas.getContext("2d")!;
  const image = context.createImageData(columns, rows);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const share = Math.max(-1, Math.min(1, value(row, column) / limit));
      const end = share < 0 ? low : high;
      const weight = Math.abs(share) ** 0.7;
      const at = 4 * (row * columns + column);
      for (let i = 0; i < 3; i++) image.data[at + i] = middle[i]! + (end[i]! - middle[i]!) * weight;
      image.data[at + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
}

/** Draws a kernel, (C_out, C_in, k_h, k_w): one tile of k_h x k_w for each pair of channels. */
export function paintKernel(canvas: HTMLCanvasElement, kernel: Float32Array, shape: number[], limit: number): void {
  const [out, into, height, width] = [shape[0]!, shape[1]!, shape[2] ?? 1, shape[3] ?? 1];
  paintMatrix(canvas, out * height, into * width, limit, (row, column) => {
    const [o, y] = [Math.floor(row / height), row % height];
    const [i, x] = [Math.floor(column / width), column % width];
    return kernel[((o * into + i) * height + y) * width + x]!;
  });
}

/** Draws a matrix; further axes before the last one are stacked. */
export function paintValues(canvas: HTMLCanvasElement, { data, dims }: Values, limit: number, centre = 0): void {
  const columns = dims[dims.length - 1] ?? 1;
  paintMatrix(canvas, data.length / columns, columns, limit, (row, column) => data[row * columns + column]! - centre);
}

/** Draws bars of one or two vectors beside each other, element by element. */
export function paintBars(canvas: HTMLCanvasElement, series: Float32Array[], limit: number | null): void {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth || 300;
  canvas.width = width * ratio;
  canvas.height = BAR_HEIGHT * ratio;
  canvas.style.height = `${BAR_HEIGHT}px`;
  const context = canvas.getContext("2d")!;
  context.scale(ratio, ratio);
  const count = series[0]!.length;
  const low = Math.min(0, ...series.flatMap((values) => [...values]));
  const high = limit ?? Math.max(1e-9, ...series.flatMap((values) => [...values]));
  const y = (value: number) => BAR_HEIGHT - 1 - ((value - low) / (high - low)) * (BAR_HEIGHT - 2);
  const slot = Math.min(width / count, 6 * CELL);
  const bar = (slot * (slot > 6 ? 0.8 : 1)) / series.length;
  context.fillStyle = colour("--grid");
  for (const line of limit === 2 ? [0, 1, 2] : [low, high]) context.fillRect(0, y(line), width, 1);
  series.forEach((values, index) => {
    context.fillStyle = colour(index ? "--b" : "--a");
    values.forEach((value, element) => {
      const from = y(Math.max(value, 0));
      context.fillRect(element * slot + index * bar, from, Math.max(bar, 0.5), Math.max(y(Math.min(value, 0)) - from, 1));
    });
  });
}
