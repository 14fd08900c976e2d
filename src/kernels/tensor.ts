/** How the numbers of a tensor are stored. `mxfp4` covers blocks and scales together; its shape is the logical one. */
export type DataType = 'float32' | 'bfloat16' | 'mxfp4'

/**
 * A tensor on some device: opaque to the model, which knows only its shape.
 * Rows are the first dimension; the last dimension is contiguous.
 */
export interface Tensor {
  readonly dataType: DataType
  readonly shape: readonly number[]
}

/** A tensor in a file, not yet on a device. What `checkpoint/` hands out and `Device.load` takes. */
export interface StoredTensor {
  readonly name: string
  /** safetensors' name of the type: `BF16`, `F32`, `U8`, … */
  readonly dataType: string
  readonly shape: readonly number[]
  readonly byteLength: number
  /** The bytes from `begin` up to `end` of the tensor (all by default), little-endian as in the file. */
  read(begin?: number, end?: number): Promise<Uint8Array>
}
