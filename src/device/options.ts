/** How a model is run; every choice has a default. */
export interface DeviceOptions {
  /** `cpu`: native kernels; `reference`: plain TypeScript, slow and exact. By default `cpu` where there is one. */
  device?: 'cpu' | 'reference'
  /** Native threads: as many as this process may use by default. Also TUTTI_THREADS. */
  threads?: number
  /**
   * `fast` (default): matrices of attention and unembedding are kept in 8 bits, activations are rounded to 8 bits where
   * they meet matrices. `exact`: the checkpoint's own numbers and float32 activations.
   */
  precision?: 'fast' | 'exact'
  /** How keys and values are kept: `bf16` (default), or `q8`, half as large, with int8 codes and a scale for every 32. */
  cache?: 'bf16' | 'q8'
  /**
   * Whether the 8-bit matrices of a large model are kept on disk, so that it starts faster the next time and processes
   * share them: 1.2 GB for gpt-oss-20b, in tutti's cache folder (TUTTI_CACHE_DIR). By default true.
   */
  keep?: boolean
}
