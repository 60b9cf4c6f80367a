// Command otlpjob is a job that is traced by the OpenTelemetry SDK for Go, as its
// environment says, and sends requests of others as they were recorded:
//
//	otlpjob [--wait FILE] [PATH=FILE ...]
package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Println("otlpjob:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	// What is masked in the log is, from then on, in telemetry: however soon that is sent.
	fmt.Println("::add-mask::a-long-secret")
	if os.Getenv("GITHUB_ACTIONS") != "" { // its runner keeps that to itself
		if err := mask(ctx, "a-long-secret\n"); err != nil {
			return err
		}
	}
	// While its agent starts anew it waits, and by itself not for as long as that may take.
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithTimeout(2*time.Minute))
	if err != nil {
		return err
	}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": os.Getenv("TRACEPARENT")})
	tracer := provider.Tracer("otlpjob")
	ctx, span := tracer.Start(ctx, "work")
	span.SetAttributes(attribute.String("told", "it is a-long-secret"), attribute.Int("n", 7))
	for _, arg := range args {
		if file, ok := strings.CutPrefix(arg, "--wait="); ok {
			for i := 0; ; i++ {
				if _, err := os.Stat(file); err == nil {
					break
				}
				_, inner := tracer.Start(ctx, fmt.Sprint("turn ", i))
				inner.End()
				fmt.Println("turn", i)
				time.Sleep(50 * time.Millisecond)
			}
			continue
		}
		path, file, _ := strings.Cut(arg, "=")
		if err := post(ctx, path, file); err != nil {
			return err
		}
	}
	span.End()
	return provider.Shutdown(ctx)
}

// mask has a text hidden.
func mask(ctx context.Context, text string) error {
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, os.Getenv("NIMBUS_MASK_URL"), strings.NewReader(text))
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(q)
	if err != nil {
		return err
	}
	fmt.Println("mask", answer.StatusCode)
	return answer.Body.Close()
}

// post sends a recorded request.
func post(ctx context.Context, path, file string) error {
	body, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	contentType := "application/json"
	if strings.HasSuffix(file, ".pb") {
		contentType = "application/x-protobuf"
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT")+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	q.Header.Set("Content-Type", contentType)
	answer, err := http.DefaultClient.Do(q)
	if err != nil {
		return err
	}
	fmt.Println(path, file, answer.StatusCode)
	return answer.Body.Close()
}
