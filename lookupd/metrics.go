package lookupd

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are what /metrics shows besides the registry's totals and the Go
// runtime's figures. The maps are never written after newMetrics.
type metrics struct {
	registry *prometheus.Registry
	commands map[string]prometheus.Counter
	errors   prometheus.Counter
	requests map[string]prometheus.Counter // by path
}

// otherCommand counts the words that are no command.
const otherCommand = "other"

func newMetrics(s *Server) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		commands: map[string]prometheus.Counter{},
		requests: map[string]prometheus.Counter{},
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "nsqlookupd_client_errors_total", Help: "Error answers on the TCP port; each ends its connection.",
		}),
	}
	commands := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "nsqlookupd_commands_total", Help: "Commands on the TCP port.",
	}, []string{"command"})
	for _, name := range []string{"IDENTIFY", "REGISTER", "UNREGISTER", "PING", otherCommand} {
		m.commands[name] = commands.WithLabelValues(name)
	}
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "nsqlookupd_http_requests_total", Help: "HTTP requests, whatever the answer, by path.",
	}, []string{"path"})
	for _, path := range []string{
		"/ping", "/info", "/topics", "/channels", "/lookup", "/nodes", "/debug", "/metrics",
		"/topic/create", "/topic/delete", "/topic/tombstone", "/channel/create", "/channel/delete",
	} {
		m.requests[path] = requests.WithLabelValues(path)
	}
	total := func(name, help string, read func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(read()) })
	}
	m.registry.MustRegister(
		m.errors, commands, requests,
		total("nsqlookupd_producers", "Producers that have identified themselves, hidden ones too.",
			func() int { n, _, _ := s.registry.totals(); return n }),
		total("nsqlookupd_topics", "Topics known.", func() int { _, n, _ := s.registry.totals(); return n }),
		total("nsqlookupd_channels", "Channels known, over all topics.", func() int { _, _, n := s.registry.totals(); return n }),
		total("nsqlookupd_connections", "Connections on the TCP port.", s.connections),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// command counts one command by its name.
func (m *metrics) command(name string) {
	c := m.commands[name]
	if c == nil {
		c = m.commands[otherCommand]
	}
	c.Inc()
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}
