import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { locateModel, startWorker } from '../platform.node.ts'
import { WorkerEngine } from './worker-engine.ts'

/** How late the caller's event loop comes back while nano runs a prompt of 2,000 tokens in its worker, and how fast it is. */
const engine = await WorkerEngine.start(startWorker({ path: locateModel('nano') }))
const tokens = Array.from({ length: 2000 }, (_, i) => (i * 7919) % 199_000)

const idle = monitorEventLoopDelay({ resolution: 1 })
idle.enable()
await sleep(3000)
idle.disable()

const busy = monitorEventLoopDelay({ resolution: 1 })
busy.enable()
const started = performance.now()
let first = 0
for await (const event of engine.generate({ tokens, maxTokens: 64, stopTokens: [] })) {
  if (event.type === 'token') first ||= performance.now()
}
const ended = performance.now()
busy.disable()

const [idleMs, busyMs] = [idle, busy].map(delays => delays.percentile(99) / 1e6)
console.log(`event loop, p99: idle ${idleMs.toFixed(2)} ms, busy ${busyMs.toFixed(2)} ms`)
console.log(`later by ${(busyMs - idleMs).toFixed(2)} ms (bound: 20 ms)`)
console.log(
  `prefill ${(2000 / ((first - started) / 1000)).toFixed(0)} tokens/s, decode ${(63 / ((ended - first) / 1000)).toFixed(1)} tokens/s`,
)
await engine.close()
if (busyMs - idleMs > 20) process.exitCode = 1
