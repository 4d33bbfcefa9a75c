/** The page: two pictures, a network, and its layers. */
import { find, showDetail, showList, showMoved } from "./layers";
import { largest, Network, readIndex, type NetworkInfo } from "./network";
import { inputOf, isEmpty } from "./picture";
import { percent, Slot, type SlotName } from "./slot";

const FOLDER = "networks";
/** The samples that the two pictures begin with. */
const BEGINNING = [0, 3];

/** State that tests, and curious readers, can look at in the console. */
export interface Explorer {
  slots: Record<SlotName, Slot>;
  network: Network | null;
  layer: number;
  /** Milliseconds from the start of loading to the first answer; null before it. */
  firstAnswer: number | null;
  /** Whether both pictures have their answers. */
  settled: boolean;
}

declare global {
  interface Window {
    explorer: Explorer;
  }
}

const slots = (["A", "B"] as const).map((name) => new Slot(name, { changed: schedule, chosen: choose }));
const [a, b] = slots as [Slot, Slot];
let active = a;
let infos: NetworkInfo[] = [];
let sample = 0;
const loaded = new Map<NetworkInfo, Promise<Network>>();
const waiting = new Set<Slot>();
let running = false;
const explorer: Explorer = { slots: { A: a, B: b }, network: null, layer: 0, firstAnswer: null, settled: false };
window.explorer = explorer;

/** Marks a picture as changed; its answer comes with the next frame. */
function schedule(slot: Slot): void {
  explorer.settled = false;
  waiting.add(slot);
  if (running || !explorer.network) return;
  running = true;
  answerAll()
    .catch(report)
    .finally(() => (running = false));
}

/** Computes the answers of changed pictures until none changes any more. */
async function answerAll(): Promise<void> {
  const frame = () => new Promise(requestAnimationFrame);
  await frame();
  while (waiting.size > 0 && explorer.network) {
    const network = explorer.network;
    const changed = [...waiting];
    waiting.clear();
    for (const slot of changed) {
      const pixels = slot.paint(network.info.size);
      slot.input = isEmpty(slot.picture) ? null : inputOf(pixels, network.info);
      slot.result = slot.input && (await network.run(slot.input));
    }
    if (explorer.network === network) show(network);
    if (slots.some((slot) => slot.result)) explorer.firstAnswer ??= performance.now();
    await frame();
    if (slots.some((slot) => slot.result) && (await network.startTwin())) slots.forEach((slot) => waiting.add(slot));
  }
  explorer.settled = true;
  running = false;
}

function show(network: Network): void {
  slots.forEach((slot) => slot.answer(network.info));
  showMoved(network, slots);
  showDetail(network, explorer.layer, slots);
  find("#finding").textContent = `${dataSentence(network.info)} ${pictureSentence(network)}`;
  const times = slots.flatMap(({ result }) => (result ? [result.milliseconds] : []));
  find("#speed").textContent = times.length ? `A picture takes ${Math.max(...times).toFixed(0)} ms here.` : "";
}

/** What freezing the kernels costs on the test images. */
function dataSentence(info: NetworkInfo): string {
  if (!info.frozen) {
    return `This network has the same kernels for every picture; it is right for ${percent(info.accuracy)} of ${info.images} test images.`;
  }
  const lost = 100 * (info.accuracy - info.frozen.accuracy);
  return (
    `Frozen at their mean, the kernels would change the answer for ${percent(info.frozen.changed)} of ${info.images} test images: ` +
    `${percent(info.accuracy)} right as they are, ${percent(info.frozen.accuracy)} frozen` +
    `${Math.abs(lost) < 0.05 ? "." : ` (${lost > 0 ? "−" : "+"}${Math.abs(lost).toFixed(1)} points).`}`
  );
}

function pictureSentence(network: Network): string {
  const { layers, classes } = network.info;
  const slot = active.result ? active : slots.find(({ result }) => result);
  if (!slot?.result) return "Draw a letter to begin.";
  const [best] = largest(slot.result.probabilities, 1);
  if (layers.length === 0) return `Picture ${slot.name} is ${classes[best!]}.`;
  const moved = slot.result.layers.map((layer) => layer.moved);
  const most = moved.indexOf(Math.max(...moved));
  return `For picture ${slot.name}, read as ${classes[best!]}, ${layers[most]!.name} moves most: ${percent(moved[most]!)} from its mean.`;
}

function choose(slot: Slot): void {
  active = slot;
  slots.forEach((each) => each.element.classList.toggle("active", each === slot));
  find("#active").textContent = slot.name;
}

async function useNetwork(info: NetworkInfo): Promise<void> {
  const pending = loaded.get(info) ?? Network.load(info, FOLDER);
  loaded.set(info, pending);
  const network = await pending;
  explorer.network = network;
  explorer.layer = Math.max(0, info.layers.findIndex((layer) => layer.movement === Math.max(...info.layers.map((l) => l.movement))));
  find("#equation").textContent = info.family ? `${info.family.title}: ${info.family.equation}` : "A static network: W(x) = W₀";
  find("#layers").hidden = info.layers.length === 0;
  find("#layers-note").textContent = `Distance of the kernel from its mean over ${info.images} test images, relative to the mean's length; the line in a bar is the usual distance.`;
  showList(network, explorer.layer, useLayer);
  showSamples(info);
  slots.forEach(schedule);
}

function useLayer(layer: number): void {
  explorer.layer = layer;
  if (explorer.network) showDetail(explorer.network, layer, slots);
}

function showSamples(info: NetworkInfo): void {
  find(".thumbnails").replaceChildren(
    ...info.samples.map(({ file, label }, index) => {
      const button = document.createElement("button");
      button.type = "button";
      const image = new Image();
      image.src = `${FOLDER}/${file}`;
      image.alt = `sample ${label}`;
      button.append(image);
      button.addEventListener("click", () => useSample(index));
      return button;
    }),
  );
}

function useSample(index: number): void {
  const { samples } = explorer.network!.info;
  sample = index % samples.length;
  void active.load(`${FOLDER}/${samples[sample]!.file}`, samples[sample]!.label);
}

function showNetworks(): void {
  const names = infos.map(({ family }) => (family ? (/\(([^()]+)\)$/.exec(family.title)?.[1] ?? family.title) : "static"));
  infos.forEach((info, index) => {
    const label = document.createElement("label");
    const radio = document.createElement("input");
    radio.type = "radio";
    radio.name = "network";
    radio.checked = info === start();
    radio.addEventListener("change", () => void useNetwork(info).catch(report));
    const unique = names.filter((name) => name === names[index]).length === 1;
    label.append(radio, unique ? names[index]! : info.title);
    label.title = info.title;
    find("#networks").append(label);
  });
}

/** The first dynamic network. */
function start(): NetworkInfo {
  return infos.find((info) => info.layers.length > 0) ?? infos[0]!;
}

function onKey(event: KeyboardEvent): void {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  const step = (selector: string, index: number) => document.querySelectorAll<HTMLInputElement>(selector)[index]?.click();
  if (key === "a" || key === "b") {
    choose(explorer.slots[key === "a" ? "A" : "B"]);
    active.element.focus();
  } else if (key === "c") active.clear();
  else if (key === "s" && explorer.network) useSample(sample + 1);
  else if (key === "j") step("[name=layer]", explorer.layer + 1);
  else if (key === "k") step("[name=layer]", explorer.layer - 1);
  else if (/^[1-9]$/.test(key)) step("[name=network]", Number(key) - 1);
}

function report(error: unknown): void {
  find("#finding").textContent = `The explorer stops here: ${error instanceof Error ? error.message : String(error)}`;
  console.error(error);
}

async function begin(): Promise<void> {
  find("#pictures").append(a.element, b.element);
  choose(a);
  slots.forEach((slot) => slot.paint([1, 32, 32]));
  document.addEventListener("keydown", onKey);
  const redraw = () => slots.forEach(schedule);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  new ResizeObserver(redraw).observe(find("main"));
  infos = await readIndex(FOLDER);
  showNetworks();
  const first = start();
  await Promise.all([
    ...slots.map((slot, index) => {
      const chosen = first.samples[BEGINNING[index]! % first.samples.length];
      return chosen && slot.load(`${FOLDER}/${chosen.file}`, chosen.label);
    }),
    useNetwork(first),
  ]);
}

begin().catch(report);
