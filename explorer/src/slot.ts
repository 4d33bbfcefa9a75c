/** One of the two pictures: the pad to draw on, its buttons, and what the network says. */
import { largest, type NetworkInfo, type Result } from "./network";
import { drawStrokes, isEmpty, pixelsOf, type Picture, type Point } from "./picture";

export type SlotName = "A" | "B";
const PAD = 448;
const PEN = 0.05;
const ANSWERS = 3;

export interface SlotEvents {
  changed: (slot: Slot) => void;
  chosen: (slot: Slot) => void;
}

export class Slot {
  readonly element = document.createElement("article");
  picture: Picture = { kind: "strokes", strokes: [] };
  input: Float32Array | null = null;
  result: Result | null = null;
  private readonly pad: HTMLCanvasElement;
  private readonly seen: HTMLCanvasElement;
  private stroke: Point[] | null = null;

  constructor(
    readonly name: SlotName,
    private readonly events: SlotEvents,
  ) {
    this.element.className = `slot ${name.toLowerCase()}`;
    this.element.tabIndex = -1;
    this.element.innerHTML = `
      <h2><span class="dot"></span>Picture ${name}</h2>
      <div class="pad">
        <canvas class="board" width="${PAD}" height="${PAD}" role="img" aria-label="Picture ${name}: draw a letter here"></canvas>
        <span class="hint">draw a letter</span>
        <figure><canvas class="seen"></canvas><figcaption>as the network reads it</figcaption></figure>
      </div>
      <div class="tools">
        <button type="button" class="clear">Clear</button>
        <label class="button">Load<input type="file" accept="image/*" aria-label="Load picture ${name}" /></label>
      </div>
      <ol class="answers"></ol>
      <p class="frozen"></p>`;
    this.pad = this.element.querySelector(".board")!;
    this.seen = this.element.querySelector(".seen")!;
    this.element.addEventListener("focusin", () => events.chosen(this));
    this.element.addEventListener("pointerdown", () => events.chosen(this));
    this.element.querySelector(".clear")!.addEventListener("click", () => this.clear());
    const file = this.element.querySelector<HTMLInputElement>("input[type=file]")!;
    file.addEventListener("change", () => {
      const chosen = file.files?.[0];
      if (chosen) void this.load(URL.createObjectURL(chosen), chosen.name);
      file.value = "";
    });
    this.listenToPointer();
  }

  clear(): void {
    this.show({ kind: "strokes", strokes: [] });
  }

  show(picture: Picture): void {
    this.picture = picture;
    this.events.changed(this);
  }

  /** Shows the image at an address. */
  async load(address: string, label: string): Promise<void> {
    const image = new Image();
    image.src = address;
    try {
      await image.decode();
    } catch {
      this.element.querySelector(".frozen")!.textContent = `${label} is no picture that this browser can read.`;
      return;
    }
    this.show({ kind: "image", image, label });
  }

  /** Draws the pad, and the pixels that a network reads. */
  paint(size: NetworkInfo["size"]): ImageData {
    const context = this.pad.getContext("2d")!;
    const style = getComputedStyle(this.element);
    context.fillStyle = style.getPropertyValue("--paper");
    context.fillRect(0, 0, PAD, PAD);
    const pixels = pixelsOf(this.picture, size);
    this.seen.width = pixels.width;
    this.seen.height = pixels.height;
    this.seen.getContext("2d")!.putImageData(pixels, 0, 0);
    if (this.picture.kind === "image") {
      context.imageSmoothingEnabled = false;
      context.drawImage(this.seen, 0, 0, PAD, PAD);
    } else {
      const strokes = this.picture.strokes.map((stroke) => stroke.map(({ x, y }) => ({ x: x * PAD, y: y * PAD })));
      drawStrokes(context, strokes, PEN * PAD, style.getPropertyValue("--ink"));
    }
    this.element.classList.toggle("empty", isEmpty(this.picture));
    return pixels;
  }

  /** Shows the answers of the network and of its frozen twin. */
  answer(info: NetworkInfo): void {
    const list = this.element.querySelector(".answers")!;
    const frozen = this.element.querySelector(".frozen")!;
    list.replaceChildren();
    frozen.textContent = "";
    if (!this.result) return;
    for (const index of largest(this.result.probabilities, ANSWERS)) {
      const item = document.createElement("li");
      const share = percent(this.result.probabilities[index]!);
      item.innerHTML = `<span class="class"></span><span class="bar"><span style="width:${100 * this.result.probabilities[index]!}%"></span></span><span>${share}</span>`;
      item.querySelector(".class")!.textContent = info.classes[index]!;
      list.append(item);
    }
    frozen.textContent = frozenSentence(this.result, info);
  }

  private listenToPointer(): void {
    const place = (event: PointerEvent): Point => {
      const box = this.pad.getBoundingClientRect();
      return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
    };
    this.pad.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      this.pad.setPointerCapture(event.pointerId);
      this.stroke = [place(event)];
      const before = this.picture.kind === "strokes" ? this.picture.strokes : [];
      this.show({ kind: "strokes", strokes: [...before, this.stroke] });
    });
    this.pad.addEventListener("pointermove", (event) => {
      if (!this.stroke) return;
      // Between two frames a pen moves through several places.
      const events = event.getCoalescedEvents?.() ?? [];
      this.stroke.push(...(events.length ? events : [event]).map(place));
      this.events.changed(this);
    });
    for (const end of ["pointerup", "pointercancel"] as const) {
      this.pad.addEventListener(end, () => (this.stroke = null));
    }
  }
}

export function percent(share: number): string {
  return `${share >= 0.0995 || share === 0 ? Math.round(100 * share) : (100 * share).toFixed(1)}\u00a0%`;
}

function frozenSentence(result: Result, info: NetworkInfo): string {
  if (!result.frozen) return "";
  const [own, frozen] = [largest(result.probabilities, 1)[0]!, largest(result.frozen, 1)[0]!];
  const share = percent(result.frozen[frozen]!);
  const name = info.classes[frozen]!;
  return own === frozen
    ? `With frozen kernels: still ${name} (${share}).`
    : `With frozen kernels it would say ${name} (${share}).`;
}
