/** Runs an exported network and its frozen twin, and compares kernels. */
import * as ort from "onnxruntime-web/wasm";
import wasmUrl from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";

// One thread needs no isolation headers, so any file server can serve the page.
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = { wasm: wasmUrl };
/** More optimisation doubles the time that a session takes to start, and these networks run no faster by it. */
const SESSION: ort.InferenceSession.SessionOptions = { graphOptimizationLevel: "basic" };

/** An ONNX file of one Identity. */
const IDENTITY = "CAg6NwoQCgF4EgF5IghJZGVudGl0eRIBZ1oPCgF4EgoKCAgBEgQKAggBYg8KAXkSCgoICAESBAoCCAFCBAoAEBI=";
/** The first session, with which ONNX Runtime starts. That takes longer than all else and blocks the page. */
let runtime: Promise<unknown> | undefined;

function startRuntime(): Promise<unknown> {
  return (runtime ??= ort.InferenceSession.create(Uint8Array.from(atob(IDENTITY), (byte) => byte.charCodeAt(0))));
}

export type Role = "mixing" | "gate" | "matrix";

export interface CoefficientInfo {
  symbol: string;
  role: Role;
  element: string;
  limit: number | null;
}

export interface LayerInfo {
  name: string;
  kind: string;
  shape: number[];
  /** Relative standard deviation of the kernel over the test images. */
  movement: number;
  coefficients: Record<string, CoefficientInfo>;
}

export interface NetworkInfo {
  title: string;
  family: { title: string; equation: string; arxiv: string } | null;
  classes: string[];
  mean: number[];
  std: number[];
  /** Channels, height and width of an image. */
  size: [number, number, number];
  file: string;
  images: number;
  accuracy: number;
  samples: { file: string; label: string }[];
  layers: LayerInfo[];
  frozen?: { file: string; kernels: string; accuracy: number; changed: number };
}

export interface Values {
  data: Float32Array;
  dims: number[];
}

export interface LayerResult {
  coefficients: { info: CoefficientInfo; name: string; values: Values }[];
  kernel: Float32Array;
  /** ||W(x) - E W|| / ||E W||. */
  moved: number;
}

export interface Result {
  probabilities: Float32Array;
  logits: Float32Array;
  /** Of the network whose kernels have their mean; null for a static network, and before the twin runs. */
  frozen: Float32Array | null;
  layers: LayerResult[];
  milliseconds: number;
}

export interface ReferenceKernels {
  neutral: Float32Array;
  mean: Float32Array;
}

export async function readIndex(folder: string): Promise<NetworkInfo[]> {
  const index = (await (await fetched(`${folder}/index.json`)).json()) as { networks: NetworkInfo[] };
  return index.networks;
}

export class Network {
  private queue: Promise<unknown> = Promise.resolve();
  private frozen: ort.InferenceSession | null = null;

  private constructor(
    readonly info: NetworkInfo,
    private readonly session: ort.InferenceSession,
    /** The file of the network with frozen kernels, until its session starts. */
    private twin: Uint8Array | undefined,
    /** W0 and the mean kernel of each layer. */
    readonly references: ReferenceKernels[],
  ) {}

  static async load(info: NetworkInfo, folder: string): Promise<Network> {
    const files = [info.file, ...(info.frozen ? [info.frozen.file, info.frozen.kernels] : [])];
    const loading = files.map(async (file) => new Uint8Array(await (await fetched(`${folder}/${file}`)).arrayBuffer()));
    // After the requests, so that the files arrive meanwhile.
    await startRuntime();
    const [network, twin, kernels] = await Promise.all(loading);
    const session = await ort.InferenceSession.create(network!, SESSION);
    return new Network(info, session, twin, kernels ? cutKernels(kernels, info.layers) : []);
  }

  /** Starts the frozen twin, which the first answer does without. Returns whether it was not running yet. */
  async startTwin(): Promise<boolean> {
    if (!this.twin) return false;
    const file = this.twin;
    this.twin = undefined;
    this.frozen = await ort.InferenceSession.create(file, SESSION);
    return true;
  }

  /** Runs one image, (C, H, W), normalised. */
  run(input: Float32Array): Promise<Result> {
    // A session runs one call at a time.
    const result = this.queue.then(() => this.compute(input));
    this.queue = result.catch(() => undefined);
    return result;
  }

  private async compute(input: Float32Array): Promise<Result> {
    const start = performance.now();
    const feeds = { images: new ort.Tensor("float32", input, [1, ...this.info.size]) };
    const outputs = await this.session.run(feeds);
    const twin = this.frozen ? await this.frozen.run(feeds) : null;
    const layers = this.info.layers.map((layer, index): LayerResult => {
      const kernel = floats(outputs[`${layer.name}.weight`]);
      const coefficients = Object.entries(layer.coefficients).flatMap(([name, info]) => {
        const tensor = outputs[`${layer.name}.${name}`];
        return tensor ? [{ name, info, values: { data: floats(tensor), dims: tensor.dims.slice(1) } }] : [];
      });
      return { kernel, coefficients, moved: relativeDistance(kernel, this.references[index]!.mean) };
    });
    const logits = floats(outputs["output"]);
    return {
      logits,
      probabilities: softmax(logits),
      frozen: twin ? softmax(floats(twin["output"])) : null,
      layers,
      milliseconds: performance.now() - start,
    };
  }
}

async function fetched(address: string): Promise<Response> {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address} cannot be loaded (${response.status}).`);
  return response;
}

function floats(tensor: ort.Tensor | undefined): Float32Array {
  if (!tensor) throw new Error("the exported file lacks an output that the page needs; export it again.");
  return tensor.data as Float32Array;
}

function cutKernels(bytes: Uint8Array, layers: LayerInfo[]): ReferenceKernels[] {
  const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
  let position = 0;
  const next = (count: number) => {
    const values = new Float32Array(count);
    for (let i = 0; i < count; i++) values[i] = fromHalf(halves[position++]!);
    return values;
  };
  return layers.map(({ shape }) => {
    const count = shape.reduce((product, length) => product * length, 1);
    return { neutral: next(count), mean: next(count) };
  });
}

/** 2 to the power of a float16's exponent, for a fraction of which 1024 is one. */
const POWERS = Float64Array.from({ length: 32 }, (_, exponent) => 2 ** (exponent - 25));

/** The value of a float16 with these bits. */
export function fromHalf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * 2 ** -24 * fraction;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * POWERS[exponent]! * (1024 + fraction);
}

function relativeDistance(kernel: Float32Array, mean: Float32Array): number {
  let distance = 0;
  let norm = 0;
  for (let i = 0; i < mean.length; i++) {
    distance += (kernel[i]! - mean[i]!) ** 2;
    norm += mean[i]! ** 2;
  }
  return Math.sqrt(distance / norm);
}

function softmax(logits: Float32Array): Float32Array {
  const largest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = logits.map((value) => Math.exp(value - largest));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((value) => value / sum);
}

/** Indices of the largest values, the largest first. */
export function largest(values: Float32Array, count: number): number[] {
  return [...values.keys()].sort((a, b) => values[b]! - values[a]!).slice(0, count);
}
