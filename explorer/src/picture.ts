/** Turns strokes and images into the pixels that a network reads. */
import type { NetworkInfo } from "./network";

export interface Point {
  x: number;
  y: number;
}

/** A drawing, in fractions of the pad's side, or an image. */
export type Picture =
  | { kind: "strokes"; strokes: Point[][] }
  | { kind: "image"; image: HTMLImageElement; label: string };

/** Larger side of a drawn character and width of its strokes, as fractions of the image: those of the training images. */
const CHARACTER = 0.58;
const STROKE = 0.085;
const INK = "#ededed";
const PAPER = "#1c1c1c";

export function isEmpty(picture: Picture): boolean {
  return picture.kind === "strokes" && picture.strokes.length === 0;
}

/** Draws a picture at the size that a network reads. */
export function pixelsOf(picture: Picture, [, height, width]: NetworkInfo["size"]): ImageData {
  const context = canvasContext(width, height);
  if (picture.kind === "image") {
    drawCovering(context, picture.image, width, height);
  } else {
    // Drawn four times as large and then averaged: strokes of a few pixels keep their shape.
    const large = canvasContext(4 * width, 4 * height);
    drawCentred(large, picture.strokes, 4 * width, 4 * height);
    context.imageSmoothingQuality = "high";
    context.drawImage(large.canvas, 0, 0, width, height);
  }
  return context.getImageData(0, 0, width, height);
}

/** Normalises pixels: (C, H, W). */
export function inputOf(pixels: ImageData, { size, mean, std }: NetworkInfo): Float32Array {
  const [channels, height, width] = size;
  const area = height * width;
  const input = new Float32Array(channels * area);
  for (let channel = 0; channel < channels; channel++) {
    for (let i = 0; i < area; i++) {
      const [red, green, blue] = pixels.data.subarray(4 * i, 4 * i + 3);
      const grey = Math.round(0.299 * red! + 0.587 * green! + 0.114 * blue!);
      const value = channels === 1 ? grey : pixels.data[4 * i + channel]!;
      input[channel * area + i] = (value / 255 - mean[channel]!) / std[channel]!;
    }
  }
  return input;
}

function canvasContext(width: number, height: number): CanvasRenderingContext2D {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas.getContext("2d", { willReadFrequently: true })!;
}

/** Draws the middle of an image so that it fills the canvas. Transparent pixels become white, as in Python. */
function drawCovering(context: CanvasRenderingContext2D, image: HTMLImageElement, width: number, height: number): void {
  const scale = Math.max(width / image.naturalWidth, height / image.naturalHeight);
  const [w, h] = [image.naturalWidth * scale, image.naturalHeight * scale];
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingEnabled = scale !== 1;
  context.imageSmoothingQuality = "high";
  context.drawImage(image, (width - w) / 2, (height - h) / 2, w, h);
}

/** Draws strokes moved to the centre, with the size and the width of the training images. */
function drawCentred(context: CanvasRenderingContext2D, strokes: Point[][], width: number, height: number): void {
  context.fillStyle = PAPER;
  context.fillRect(0, 0, width, height);
  const points = strokes.flat();
  if (points.length === 0) return;
  const [xs, ys] = [points.map((point) => point.x), points.map((point) => point.y)];
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const side = Math.min(width, height);
  // A dot is not magnified beyond reason.
  const scale = ((CHARACTER - STROKE) * side) / Math.max(right - left, bottom - top, 0.1);
  const place = ({ x, y }: Point) => ({
    x: width / 2 + (x - (left + right) / 2) * scale,
    y: height / 2 + (y - (top + bottom) / 2) * scale,
  });
  drawStrokes(context, strokes.map((stroke) => stroke.map(place)), STROKE * side, INK);
}

export function drawStrokes(
  context: CanvasRenderingContext2D,
  strokes: Point[][],
  lineWidth: number,
  colour: string,
): void {
  context.lineWidth = lineWidth;
  context.lineCap = "round";
  context.lineJoin = "round";
  context.strokeStyle = colour;
  for (const stroke of strokes) {
    context.beginPath();
    stroke.forEach(({ x, y }, index) => (index ? context.lineTo(x, y) : context.moveTo(x, y)));
    if (stroke.length === 1) context.lineTo(stroke[0]!.x + 0.01, stroke[0]!.y);
    context.stroke();
  }
}
