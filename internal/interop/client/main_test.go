// Package client tests our client library where others are needed: upstream's
// daemons, and go-nsq itself to compare with.
package client

import (
	"testing"

	"github.com/zsqio/zsq/internal/interop/daemon"
)

func TestMain(m *testing.M) { daemon.Main(m) }
