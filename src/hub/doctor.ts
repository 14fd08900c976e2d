import { DeviceError } from '../base/errors.ts'
import { assumedReadSpeed } from '../checkpoint/read-speed.ts'
import type { ModelConfig } from '../model/config.ts'
import { chooseContext, type MemoryOptions, type MemoryPlan, planMemory } from '../model/memory.ts'
import { type Paging, planPaging, type WeightPlan } from '../model/weights.ts'
import type { Machine } from './doctor-machine.ts'
import type { Speeds } from './doctor-measure.ts'

/** A model as one device would hold it. */
export interface Candidate {
  readonly name: string
  /** Its folder, where it has one. */
  readonly path?: string
  readonly config: ModelConfig
  readonly weights: WeightPlan
  readonly device: MemoryOptions['device'] & { readonly name: string; readonly maxChunk: number }
  /** The same with keys and values in 8 bits, where that is another one. */
  readonly smallCache?: MemoryOptions['device']
  readonly choices: {
    readonly device: 'cpu' | 'reference'
    readonly precision: 'fast' | 'exact'
    readonly cache: 'bf16' | 'q8'
    /** Where a number was asked for. */
    readonly threads?: number
    /** Bytes of weights that a token would read with precision `exact`. */
    readonly exactBytes: number
  }
}

/** What becomes of a model with a context: all of it lies in memory, some is read from the disk again and again, or neither. */
export type Verdict = 'fits' | 'pages' | 'refused'

export interface Need {
  readonly contextLength: number
  readonly plan: MemoryPlan
  readonly verdict: Verdict
  readonly paging?: Paging
}

/** Tokens a second. */
export interface Prediction {
  readonly decode: readonly { readonly context: number; readonly tokensPerSecond: number }[]
  readonly prefill: readonly { readonly tokens: number; readonly tokensPerSecond: number }[]
  /** The disk's bytes a second that count where weights are read from it, and whether they were measured. */
  readonly disk?: { readonly bytesPerSecond: number; readonly measured: boolean }
}

export interface Diagnosis {
  readonly name: string
  readonly path?: string
  readonly device: string
  readonly needs: readonly Need[]
  /** With the context that tutti would choose, or that was asked for. */
  readonly chosen: Need
  /** Why it is refused, as loading would say it. */
  readonly refusal?: string
  /** None without native kernels, or where the model is refused. */
  readonly speed?: Prediction
  /** Bytes of weights that every token reads. */
  readonly bytesPerToken: number
  /** Why it would run so, a sentence a choice. */
  readonly why: readonly string[]
  readonly advice: readonly string[]
}

/** Sessions that an engine keeps by default. */
const maxSessions = 8
const shownContexts = [4096, 32_768, 131_072]

export interface Circumstances {
  readonly machine: Machine
  readonly speeds?: Speeds
  /** Bytes a second of the disk that the model's folder lies on. */
  readonly disk?: number
  /** The context that was asked for. */
  readonly wanted?: number
}

/** What a model needs on a machine, whether it has that, and how fast it would be. Opens no weights. */
export function diagnose(candidate: Candidate, circumstances: Circumstances): Diagnosis {
  const { name, path, config, device, weights } = candidate
  const { machine, speeds, wanted, disk } = circumstances
  const available = machine.memory.availableBytes
  const needs = shownContexts
    .filter(context => context <= config.maxPositionEmbeddings)
    .map(context => needOf(candidate, context, available))
  const { chosen, refusal } = choose(candidate, available, wanted)
  const speed = speeds && !refusal ? predict(config, speeds, chosen, disk) : undefined
  return {
    name,
    ...(path !== undefined && { path }),
    device: device.name,
    needs,
    chosen,
    ...(refusal !== undefined && { refusal }),
    ...(speed && { speed }),
    bytesPerToken: weights.perToken.own + weights.perToken.mapped,
    why: refusal === undefined ? reasons(candidate, circumstances, chosen) : [],
    advice: adviceFor(candidate, circumstances, { chosen, refused: refusal !== undefined }),
  }
}

function memoryOptions({ device, weights }: Candidate): MemoryOptions {
  return { device, weights, maxChunk: device.maxChunk, maxSessions }
}

function needOf(candidate: Candidate, contextLength: number, available: number): Need {
  const plan = planMemory(candidate.config, contextLength, memoryOptions(candidate))
  const paging = plan.total <= available ? planPaging(candidate.weights, plan.total, available) : undefined
  const verdict = plan.total > available ? 'refused' : paging ? 'pages' : 'fits'
  return { contextLength, plan, verdict, ...(paging && { paging }) }
}

/** What loading would do: its choice of context, or its refusal. */
function choose(candidate: Candidate, available: number, wanted?: number): { chosen: Need; refusal?: string } {
  const { config } = candidate
  try {
    const { contextLength } = chooseContext(config, available, memoryOptions(candidate), wanted)
    return { chosen: needOf(candidate, contextLength, available) }
  } catch (error) {
    if (!(error instanceof DeviceError)) throw error
    const least = Math.min(1024, config.maxPositionEmbeddings) // what loading needs at least, where nobody says how much
    return { chosen: needOf(candidate, wanted ?? least, available), refusal: error.message }
  }
}

/* ---- speed */

export function predict(config: ModelConfig, speeds: Speeds, need: Need, diskSpeed?: number): Prediction {
  const { contextLength, paging } = need
  const disk = paging && { bytesPerSecond: diskSpeed ?? assumedReadSpeed, measured: diskSpeed !== undefined }
  const reading = paging && disk ? paging.perToken / disk.bytesPerSecond : 0
  const contexts = [0, 4096, 32_768, 131_072].filter(context => context < contextLength)
  const prompts = speeds.prompts.filter(({ tokens }) => tokens < contextLength)
  return {
    decode: contexts.map(context => ({
      context,
      tokensPerSecond: 1 / (decodeSeconds(config, speeds, context) + reading),
    })),
    prefill: prompts.map(prompt => {
      const { tokens } = prompt
      // A prompt of many tokens reads more experts than one token does, but none of them twice.
      const touched = visitedExperts(config, tokens) / config.expertsPerToken
      const whole = prefillSeconds(config, speeds, prompt) + reading * touched
      return { tokens, tokensPerSecond: tokens / whole }
    }),
    ...(disk && { disk }),
  }
}

/** Seconds for one token behind so many others. */
export function decodeSeconds({ numHiddenLayers, vocabSize }: ModelConfig, speeds: Speeds, context: number): number {
  const { decodeLayer, unembeddingRow, contextToken } = speeds
  const numFull = Math.floor(numHiddenLayers / 2)
  return numHiddenLayers * decodeLayer + vocabSize * unembeddingRow + numFull * context * contextToken
}

/** Seconds for a prompt, behind none, of one of the lengths that were run. */
export function prefillSeconds(config: ModelConfig, speeds: Speeds, prompt: Speeds['prompts'][number]): number {
  const { tokens, layer, lastLayer } = prompt
  const { numHiddenLayers, vocabSize, numExperts } = config
  // Twice as many experts are as much work as two layers' are that take half the tokens each.
  const times = numExperts / speeds.numExperts
  const more = times * expertSeconds(speeds, tokens / times) - expertSeconds(speeds, tokens)
  const whole = Math.max(0, layer + more) // whatever a busy machine measured
  return (numHiddenLayers - 1) * whole + lastLayer + vocabSize * speeds.unembeddingRow
}

/** Experts of a layer that tokens choose which are routed evenly. */
export function visitedExperts({ numExperts, expertsPerToken }: ModelConfig, tokens: number): number {
  return numExperts * (1 - (1 - expertsPerToken / numExperts) ** tokens)
}

/** Seconds of the experts that were run, for so many tokens: along straight lines between what was measured. */
function expertSeconds({ experts }: Speeds, tokens: number): number {
  const next = Math.max(
    1,
    experts.findIndex(point => point.tokens >= tokens),
  )
  const [from, to] = [experts[next - 1], experts[next]]
  return from.seconds + ((to.seconds - from.seconds) * (tokens - from.tokens)) / (to.tokens - from.tokens)
}

/* ---- advice */

const gib = 2 ** 30
const gibibytes = (bytes: number): string => `${(bytes / gib).toFixed(1)} GiB`

/** What would make any model faster on this machine. */
export function machineAdvice({ kernels, noKernels, allowedCores, allowedCpus, logicalCpus, hugePages }: Machine) {
  const advice: string[] = []
  if (noKernels !== undefined) {
    advice.push(
      'install a C compiler (cc) and run "npm run prepare" in the clone: there are no native kernels, without which a ' +
        'model runs some hundred times slower',
    )
  }
  if (kernels && allowedCores !== undefined && kernels.threads < allowedCores) {
    advice.push(
      `give this process more of the CPU: it may use ${count(allowedCores, 'core')}, but gets the time of ` +
        `${kernels.threads}; raise the limit of its container`,
    )
  }
  if (allowedCpus !== undefined && allowedCpus < logicalCpus) {
    advice.push(`let this process run on all ${logicalCpus} CPUs of the machine: it may use ${allowedCpus} (taskset)`)
  }
  if (hugePages === 'never') {
    advice.push(
      'allow pages of 2 MiB (echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, as root): ' +
        'memory is read faster in them',
    )
  }
  return advice
}

const count = (n: number, noun: string): string => `${n} ${noun}${n === 1 ? '' : 's'}`

function reasons(
  { config, weights, choices }: Candidate,
  { machine, wanted }: Circumstances,
  { contextLength, verdict }: Need,
): string[] {
  const { kernels, noKernels } = machine
  const why: string[] = []
  if (choices.device === 'reference') {
    why.push(
      noKernels === undefined ? 'plain TypeScript, as was asked for' : 'plain TypeScript, for want of native kernels',
    )
  } else if (kernels) {
    const asked = choices.threads !== undefined && choices.threads !== kernels.threads
    why.push(
      asked
        ? `${count(choices.threads!, 'thread')}, as was asked for; ${kernels.threads} would be one for each core`
        : `${count(kernels.threads, 'thread')}: one for each core that this process gets`,
    )
    const read = gigabytes(weights.perToken.own + weights.perToken.mapped)
    why.push(
      choices.precision === 'exact'
        ? `precision exact, as was asked for: a token reads ${read} of weights`
        : `precision fast: a token reads ${read} of weights, and ${gigabytes(choices.exactBytes)} with exact`,
    )
    why.push(
      `cache ${choices.cache}${choices.cache === 'bf16' ? ': as exact as the model was made for' : ', as was asked for'}`,
    )
  }
  if (wanted !== undefined) why.push(`${wanted} tokens of context, as was asked for`)
  else if (contextLength === config.maxPositionEmbeddings)
    why.push(`${contextLength} tokens of context: all that the model was made for`)
  else if (verdict === 'pages')
    why.push(`${contextLength} tokens of context: more would leave less memory for its weights`)
  else why.push(`${contextLength} tokens of context: as many as find room in memory beside its weights`)
  return why
}

const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(2)} GB`

function adviceFor(
  candidate: Candidate,
  { machine, wanted }: Circumstances,
  { chosen, refused }: { chosen: Need; refused: boolean },
): string[] {
  const { config, weights, smallCache } = candidate
  const available = machine.memory.availableBytes
  const { plan, paging, contextLength } = chosen
  const all = plan.total + weights.mapped - weights.mappedEmbedding
  const advice: string[] = []
  if (refused) {
    advice.push(
      `free ${gibibytes(plan.total - available)} more memory to run it at all: close other programs, or add some`,
    )
  }
  if (all > available) {
    advice.push(
      `with ${gibibytes(all)} of free memory instead of ${gibibytes(available)} no token would wait for the disk` +
        `${paging ? '; until then a faster disk helps' : ''}`,
    )
  }
  if (smallCache && !refused && wanted === undefined && contextLength < config.maxPositionEmbeddings) {
    const small = chooseContext(config, available, { ...memoryOptions(candidate), device: smallCache })
    if (small.contextLength > contextLength) {
      advice.push(`--cache=q8 makes room for ${small.contextLength} tokens of context instead of ${contextLength}`)
    }
  }
  return advice
}
