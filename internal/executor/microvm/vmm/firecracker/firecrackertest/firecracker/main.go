// Command firecracker is a double of Firecracker for tests: a process with the
// same socket, states, words and handshakes, that checks each request against
// Firecracker's own description of its API. Its guests are pretended: they write
// what their kernel would write, answer on vsock, and have memory that can be
// looked at. A machine whose initrd has a first process gets that one for real.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"
)

// version is the one that the description is of.
const version = "1.17.0-dev"

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

type options struct {
	socket, id, config string
	noAPI, version     bool
}

func parse(args []string) (o options, err error) {
	flags := flag.NewFlagSet("firecracker", flag.ContinueOnError)
	flags.StringVar(&o.socket, "api-sock", "/run/firecracker.socket", "")
	flags.StringVar(&o.id, "id", "anonymous-instance", "")
	flags.StringVar(&o.config, "config-file", "", "")
	flags.BoolVar(&o.noAPI, "no-api", false, "")
	flags.BoolVar(&o.version, "version", false, "")
	flags.Bool("no-seccomp", false, "")
	for _, ignored := range []string{"start-time-us", "start-time-cpu-us", "parent-cpu-time-us", "level", "log-path"} {
		flags.String(ignored, "", "")
	}
	return o, flags.Parse(args)
}

func run(args []string, stdout io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if o.version {
		fmt.Fprintf(stdout, "Firecracker v%s\n", version)
		return nil
	}
	m := newMachine(o.id, stdout)
	if o.noAPI {
		if err := m.configure(o.config); err != nil {
			return err
		}
		<-m.ended
		return nil
	}
	if _, err := os.Lstat(o.socket); err == nil {
		return refuse("RunWithApiError: Failed to open the API socket at: %s. Check that it is not already used.", o.socket)
	}
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", o.socket)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: m, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		<-m.ended
		// Whoever asked for the end gets an answer.
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(ctx)
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	<-answered
	return m.failure
}

// configure does what the file of --config-file says, and starts.
func (m *machine) configure(path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var config struct {
		Boot    json.RawMessage   `json:"boot-source"`
		Machine json.RawMessage   `json:"machine-config"`
		Drives  []json.RawMessage `json:"drives"`
	}
	if err := json.Unmarshal(raw, &config); err != nil {
		return err
	}
	for _, call := range []struct {
		method, path string
		body         json.RawMessage
	}{
		{http.MethodPut, "/machine-config", config.Machine},
		{http.MethodPut, "/boot-source", config.Boot},
		{http.MethodPut, "/actions", json.RawMessage(`{"action_type":"InstanceStart"}`)},
	} {
		if _, err := m.do(call.method, call.path, call.body); err != nil {
			return err
		}
	}
	return nil
}
