/** `npm start`: the chat with the embedded model; with a question, its answer. */
import { main } from './command-line.ts'

await main(['chat', ...process.argv.slice(2)])
