import type { Device } from '../kernels/ops.ts'
import type { DeviceOptions } from './options.ts'
import { ReferenceDevice } from './reference.ts'

/** In a page there is the reference device alone. */
export function openDevice(_options: DeviceOptions): { device: Device; notice?: string } {
  return { device: new ReferenceDevice() }
}
