package cli

import (
	"io"
	"maps"
	"os"
	"reflect"
	"testing"

	"github.com/alecthomas/kong"
)

// TestFlagsBecomeSettings: an agent that is started with the settings that a
// command line becomes has the flags of that command line.
func TestFlagsBecomeSettings(t *testing.T) {
	for _, name := range []string{"NIMBUS_WARM", "NIMBUS_REACH"} {
		if _, ok := os.LookupEnv(name); ok {
			t.Fatalf("%s is set", name)
		}
	}
	parse := func(args ...string) (*root, *kong.Context) {
		t.Helper()
		var r root
		p, err := parser(&r, Streams{Out: io.Discard, Err: io.Discard}, func(int) {})
		if err != nil {
			t.Fatal(err)
		}
		line, err := p.Parse(args)
		if err != nil {
			t.Fatal(err)
		}
		return &r, line
	}
	flags := []string{
		"--server=https://nimbus.example.com", "--executors=microvm,docker", "--name=a $b", "--cpus=4", "--reach=a.example", "--reach=*.b.example",
		"--image-alias=py=docker.io/library/python:3", "--image-alias=go=docker.io/library/golang:1",
		"--image-mirror=docker.io=nimbus.example/acme/docker.io", "--image-mirror=registry.corp:5000=10.0.0.5:8080", "--overcommit-cpu=1.5", "--pressure-cpu=0", "--log-json",
	}
	installed, line := parse(append([]string{"agent", "install"}, flags...)...)
	settings, err := settingsOf(line)
	if err != nil {
		t.Fatal(err)
	}
	if len(settings) != 10 || settings["NIMBUS_PRESSURE_CPU"] != "0" {
		t.Errorf("settings are %v", settings)
	}
	for name, value := range settings {
		t.Setenv(name, value)
	}
	started, line := parse("agent", "run")
	if !reflect.DeepEqual(started.Agent.Start.Flags, installed.Agent.Install.Flags) || started.Server != installed.Server || !started.LogJSON {
		t.Errorf("flags are %+v, not %+v", started.Agent.Start.Flags, installed.Agent.Install.Flags)
	}
	again, err := settingsOf(line)
	if err != nil || !maps.Equal(again, settings) {
		t.Errorf("from the environment: %v, %v", again, err)
	}

	_, line = parse("agent", "install", "--image-deny=a\\,b")
	if _, err := settingsOf(line); err == nil {
		t.Error("a comma in a value of a list becomes two values")
	}
}
