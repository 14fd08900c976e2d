/**
 * How the numbers of a tensor are held. `mxfp4` covers blocks and scales together, `int8` codes and a scale for every 32;
 * shapes are the logical ones.
 */
export type DataType = 'float32' | 'bfloat16' | 'mxfp4' | 'int8'

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
  /** The file that holds it and its first byte there, where a device may map the file. */
  readonly location?: { readonly path: string; readonly begin: number }
  /** The bytes from `begin` up to `end` of the tensor (all by default), little-endian as in the file. */
  read(begin?: number, end?: number): Promise<Uint8Array>
}
