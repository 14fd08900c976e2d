/** `tutti/harmony`: messages to token ids and back. */
export { HarmonyError } from '../base/errors.ts'
export type { History } from './history.ts'
export * from './message.ts'
export {
  analysisMessage,
  type DeveloperOptions,
  defaultSystemMessage,
  developerMessage,
  finalMessage,
  functionCallMessage,
  type SystemOptions,
  toolResultMessage,
  userMessage,
} from './messages.ts'
export { checkToolName, type SanitizedNames, sanitizeToolNames } from './names.ts'
export { HarmonyParser, type ParserEvent, type ParserOptions, type ParserState, parseCompletion } from './parser.ts'
export {
  type RenderOptions,
  renderConversation,
  renderForCompletion,
  renderForTraining,
  renderMessage,
} from './render.ts'
export { REPAIRS, type Repair, type RepairKind } from './repair.ts'
export {
  GENERATION_STOP_TOKENS,
  STOP_TOKENS,
  STOP_TOKENS_FOR_ASSISTANT_ACTIONS,
} from './tokens.ts'
