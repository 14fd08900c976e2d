/** The `tutti` command; bin/tutti.js starts it. */
import { main } from './command-line.ts'

await main(process.argv.slice(2))
