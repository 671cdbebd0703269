// Command nsq_to_http sends the messages of a topic to HTTP endpoints, by GET or
// by POST. A message is finished when an endpoint has answered well, and comes
// again after a pause when it has not.
package main

import "github.com/zsqio/zsq/internal/tool"

func main() { tool.Main("nsq_to_http", run) }
