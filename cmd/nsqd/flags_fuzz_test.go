package main

import (
	"bytes"
	"strings"
	"testing"
)

// FuzzFlags gives parseFlags any command line, words apart by spaces. It gives
// options that can work, or says why not.
func FuzzFlags(f *testing.F) {
	for _, s := range []string{
		"", "--version", "-h", "--nope", "--worker-id=5", "--worker-id 5 --x", "--node-id=1024", "--mem-queue-size=-1", "--tls-required", "--tls-required=tcp-https",
		"--tls-min-version=ssl3.0", "--log-level=WARN", "--log-level=warning", "--e2e-processing-latency-percentile=1,0.5,NaN", "--msg-timeout=1h --msg-timeout=x",
		"--max-connections=9223372036854775807", "--lookupd-tcp-address=a,b --lookupd-tcp-address=c", "--sync-timeout=-1ns", "-- --x", "---", "-=", "--=x",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if strings.Contains(line, "config") {
			return // it would read files of the machine
		}
		var out, errs bytes.Buffer
		o, code := parseFlags(strings.Split(line, " "), &out, &errs)
		switch {
		case o != nil && code == 0:
			if err := o.Validate(); err != nil {
				t.Errorf("%q: accepted, and then %v", line, err)
			}
		case o == nil && (code == 1 || code == 2) && errs.Len() > 0:
		case o == nil && code == 0 && out.Len()+errs.Len() > 0:
		default:
			t.Errorf("%q: options %t, code %d, %q, %q", line, o != nil, code, out.String(), errs.String())
		}
	})
}
