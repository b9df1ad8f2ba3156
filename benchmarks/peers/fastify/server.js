// The three requests in Node: Fastify with a schema for its answers, postgres.js, the very statements of the service.
// PROCESSES=2 makes a cluster of two.
import cluster from 'node:cluster'
import { readFileSync } from 'node:fs'
import jwt from '@fastify/jwt'
import Fastify from 'fastify'
import postgres from 'postgres'

const statements = JSON.parse(readFileSync(process.env.STATEMENTS, 'utf8'))
const LAST = '9223372036854775807'

const text = { type: 'string' }
const maybe = { type: ['string', 'null'] }
const whole = { type: 'integer' }
const task = {
  type: 'object',
  properties: {
    id: whole, user_id: text, title: text, description: maybe, status: text, completed: { type: 'boolean' },
    priority: whole, priority_label: text, due_date: maybe, created_at: text, updated_at: text,
    completed_at: maybe, deleted_at: maybe, revision: whole,
  },
}
const page = { type: 'object', properties: { items: { type: 'array', items: task }, next_cursor: maybe, revision: whole } }
const query = {
  type: 'object',
  properties: { limit: { type: 'integer', minimum: 1, maximum: 500, default: 50 }, cursor: text },
}
const draft = {
  type: 'object',
  required: ['title'],
  additionalProperties: false,
  properties: {
    title: { type: 'string', minLength: 1, maxLength: 200 },
    description: { type: ['string', 'null'], maxLength: 1000 },
    status: { enum: ['pending', 'in_progress', 'completed'], default: 'pending' },
    priority: { type: 'integer', minimum: 1, maximum: 5, default: 3 },
    due_date: { type: ['string', 'null'], format: 'date-time' },
  },
}

async function serve () {
  const sql = postgres(process.env.DATABASE_URL, {
    max: 10,
    onnotice: () => {},
    types: {
      bigint: { to: 20, from: [20], parse: Number, serialize: String },
      timestamptz: { to: 1184, from: [1184], parse: String, serialize: String }, // a Date would drop microseconds
    },
  })
  const run = (name, values) => sql.unsafe(statements[name], values, { prepare: true })
  const app = Fastify()

  await app.register(jwt, {
    secret: Buffer.from(process.env.TOKEN_KEY, 'hex'),
    verify: {
      algorithms: ['HS256'], allowedIss: 'roundtrip', allowedAud: 'roundtrip-api', clockTolerance: 30_000, cache: true,
      requiredClaims: ['sub', 'sid', 'exp'],
    },
  })
  app.addHook('onRequest', async (request) => { await request.jwtVerify() })

  app.get('/api/v1/tasks/:id', { schema: { response: { 200: task } } }, async (request, reply) => {
    const { sub, sid } = request.user
    const [row] = await run('get', [sub, sid, request.params.id])
    if (row === undefined) return reply.code(401).send()
    if (row.id === null) return reply.code(404).send()
    return row
  })

  app.get('/api/v1/tasks', { schema: { querystring: query, response: { 200: page } } }, async (request, reply) => {
    const { sub, sid } = request.user
    const { limit, cursor } = request.query
    const [after, afterId] = cursor ? JSON.parse(Buffer.from(cursor, 'base64url')) : ['infinity', LAST]
    const rows = await run('list', [sub, sid, null, LAST, 0, limit + 1, after, afterId])
    if (rows.length === 0) return reply.code(401).send()
    const items = rows[0].id === null ? [] : rows.slice(0, limit)
    const last = rows.length > limit ? items[limit - 1] : null
    return {
      items,
      next_cursor: last && Buffer.from(JSON.stringify([last.position, last.id])).toString('base64url'),
      revision: rows[0].list_revision,
    }
  })

  app.post('/api/v1/tasks', { schema: { body: draft, response: { 201: task } } }, async (request, reply) => {
    const { sub, sid } = request.user
    const { title, description = null, status, priority, due_date: due = null } = request.body
    const [row] = await run('create', [sub, sid, title.trim(), description, status, priority, due])
    return row === undefined ? reply.code(401).send() : reply.code(201).send(row)
  })

  await app.listen({ host: '127.0.0.1', port: Number(process.env.PORT) })
}

const processes = Number(process.env.PROCESSES ?? 1)
if (cluster.isPrimary && processes > 1) {
  for (let n = 0; n < processes; n++) cluster.fork()
} else {
  await serve()
}
