// Publishes and consumes with nsqjs through one transport, and ends with status 0
// when every message came back unchanged:
//
//	node check.js HOST PORT TOPIC '{"tls":true,"snappy":true}'
'use strict'
const nsq = require('nsqjs')

const [host, port, topic, transport] = process.argv.slice(2)
const options = Object.assign({ tlsVerification: false, maxInFlight: 50 }, JSON.parse(transport))
const limit = setTimeout(() => fail('no end in sight'), 30000)

const bodies = []
for (let i = 0; i < 500; i++) bodies.push(`message ${i} ` + 'x'.repeat((i * 37) % 3000))
bodies.push('0'.repeat(300000))
const missing = new Map(bodies.map((b, i) => [b, i]))

function fail (why) {
  console.error(`${topic} ${transport}: ${why}, ${missing.size} of ${bodies.length} messages missing`)
  process.exit(1)
}

const reader = new nsq.Reader(topic, 'check', Object.assign({ nsqdTCPAddresses: `${host}:${port}` }, options))
reader.on('error', (err) => fail(err))
reader.on('message', (m) => {
  if (!missing.delete(m.body.toString())) fail('a message came twice, or changed')
  m.finish()
  if (missing.size > 0) return
  clearTimeout(limit)
  // Nothing may follow the last one.
  setTimeout(() => process.exit(0), 50)
})

const writer = new nsq.Writer(host, Number(port), options)
writer.on('error', (err) => fail(err))
writer.on('ready', () => {
  writer.publish(topic, bodies.slice(0, 300), (err) => { if (err) fail(err) })
  for (const body of bodies.slice(300)) {
    writer.publish(topic, body, (err) => { if (err) fail(err) })
  }
})
reader.connect()
writer.connect()
