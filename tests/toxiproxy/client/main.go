// Command client calls every exported method of Toxiproxy's Go client: client API TARGET (both HOST:PORT).
package main

import (
	"errors"
	"io"
	"log"
	"net"
	"os"
	"strings"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2/client"
)

func must(err error) {
	if err != nil {
		log.Output(2, err.Error())
		os.Exit(1)
	}
}

func check(holds bool, what string) {
	if !holds {
		log.Output(2, what)
		os.Exit(1)
	}
}

func failsWith(err error, status int) {
	var api *toxiproxy.ApiError
	if !errors.As(err, &api) || api.Status != status {
		log.Output(2, "other error: "+errorText(err))
		os.Exit(1)
	}
}

func errorText(err error) string {
	if err == nil {
		return "none"
	}
	return err.Error()
}

// How long an answer took; whether there was one.
func ask(address string) (time.Duration, bool) {
	start := time.Now()
	connection, err := net.Dial("tcp", address)
	if err != nil {
		return 0, false
	}
	defer connection.Close()
	connection.SetDeadline(start.Add(10 * time.Second))
	connection.Write([]byte("GET / HTTP/1.0\r\nHost: x\r\n\r\n"))
	answer, _ := io.ReadAll(connection)
	return time.Since(start), strings.Contains(string(answer), " 200 ")
}

func main() {
	log.SetFlags(log.Lshortfile)
	api, target := os.Args[1], os.Args[2]
	client := toxiproxy.NewClient(api)
	version, err := client.Version()
	must(err)
	// `go install` makes a server without a version.
	check(strings.Contains(string(version), `"version": "`), string(version))

	proxy, err := client.CreateProxy("go", "127.0.0.1:0", target)
	must(err)
	check(proxy.Enabled && !strings.HasSuffix(proxy.Listen, ":0"), proxy.Listen)
	_, answers := ask(proxy.Listen)
	check(answers, "no answer")
	_, err = client.CreateProxy("go", "127.0.0.1:0", target)
	failsWith(err, 409)
	unsaved := client.NewProxy()
	unsaved.Name, unsaved.Upstream, unsaved.Enabled = "go2", target, true
	must(unsaved.Save())
	proxies, err := client.Proxies()
	must(err)
	check(proxies["go"] != nil && proxies["go2"] != nil, "not listed")
	_, err = client.Proxy("none")
	failsWith(err, 404)
	proxy, err = client.Proxy("go")
	must(err)

	toxic, err := proxy.AddToxic("slow", "latency", "downstream", 1, toxiproxy.Attributes{"latency": 100})
	must(err)
	check(toxic.Attributes["latency"] == 100.0 && toxic.Attributes["jitter"] == 0.0, "attributes")
	took, answers := ask(proxy.Listen)
	check(answers && took > 95*time.Millisecond && took < time.Second, took.String())
	_, err = proxy.AddToxic("slow", "latency", "", -1, nil)
	failsWith(err, 409)
	_, err = proxy.AddToxic("x", "lag", "", 1, nil)
	failsWith(err, 400)
	_, err = proxy.AddToxic("", "bandwidth", "upstream", 0.5, toxiproxy.Attributes{"rate": 1000})
	must(err)
	toxic, err = proxy.UpdateToxic("slow", -1, toxiproxy.Attributes{"jitter": 1})
	must(err)
	check(toxic.Attributes["latency"] == 100.0 && toxic.Toxicity == 1, "update")
	_, err = proxy.UpdateToxic("none", 1, nil)
	failsWith(err, 404)
	toxics, err := proxy.Toxics()
	must(err)
	check(len(toxics) == 2 && toxics[0].Name == "bandwidth_upstream" && toxics[0].Toxicity == 0.5, "toxics")
	shown, err := client.Proxy("go")
	must(err)
	check(len(shown.ActiveToxics) == 2, "active toxics")
	must(proxy.RemoveToxic("slow"))
	failsWith(proxy.RemoveToxic("slow"), 404)

	options := &toxiproxy.ToxicOptions{ProxyName: "go", ToxicName: "one", ToxicType: "limit_data", Stream: "downstream", Toxicity: 1,
		Attributes: toxiproxy.Attributes{"bytes": 3}}
	_, err = client.AddToxic(options)
	must(err)
	_, answers = ask(proxy.Listen)
	check(!answers, "not limited")
	options.Attributes = toxiproxy.Attributes{"bytes": 1000000}
	_, err = client.UpdateToxic(options)
	must(err)
	_, answers = ask(proxy.Listen)
	check(answers, "still limited")
	must(client.RemoveToxic(options))
	check(client.RemoveToxic(options) != nil, "removed twice")

	must(proxy.Disable())
	_, answers = ask(proxy.Listen)
	check(!answers, "answers while disabled")
	must(proxy.Enable())
	_, answers = ask(proxy.Listen)
	check(answers, "no answer after it was enabled")
	must(proxy.Disable())
	must(client.ResetState())
	shown, err = client.Proxy("go")
	must(err)
	check(shown.Enabled && len(shown.ActiveToxics) == 0, "reset")

	populated, err := client.Populate([]toxiproxy.Proxy{{Name: "go", Listen: shown.Listen, Upstream: target, Enabled: true},
		{Name: "go3", Listen: "127.0.0.1:0", Upstream: target, Enabled: false}})
	must(err)
	check(len(populated) == 2 && populated[0].Enabled && !populated[1].Enabled, "populate")
	_, err = client.Populate([]toxiproxy.Proxy{{Name: "x"}})
	failsWith(err, 400)
	for _, name := range []string{"go", "go2", "go3"} {
		proxy, err = client.Proxy(name)
		must(err)
		must(proxy.Delete())
	}
	failsWith(proxy.Delete(), 404)
	log.Println("every method as expected")
}
