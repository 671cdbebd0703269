package nsq

import (
	"context"
	"log/slog"
	"strings"
)

// SlogOutput is a logger for SetLogger that hands lines to a *slog.Logger, each at
// the level that it begins with:
//
//	consumer.SetLogger(nsq.SlogOutput{Logger: slog.Default()}, nsq.LogLevelInfo)
//
// The level given to SetLogger and that of the handler both have to let a line
// pass. Without a Logger it is silent.
type SlogOutput struct {
	Logger *slog.Logger
}

// slogLevels are the levels by the letters of a line's beginning.
var slogLevels = map[string]slog.Level{
	"DBG": slog.LevelDebug,
	"INF": slog.LevelInfo,
	"WRN": slog.LevelWarn,
	"ERR": slog.LevelError,
}

// Output logs one line of a producer, a consumer or a connection. It never fails.
func (o SlogOutput) Output(_ int, line string) error {
	if o.Logger == nil {
		return nil
	}
	level := slog.LevelInfo
	if name, rest, found := strings.Cut(line, " "); found {
		if known, ok := slogLevels[name]; ok {
			level, line = known, strings.TrimLeft(rest, " ")
		}
	}
	o.Logger.Log(context.Background(), level, line)
	return nil
}
