(ns proof.http
  "As much of an HTTP/1.1 server as the proof needs: keep-alive, bodies with a Content-Length.

  Written out, because the zones must be able to accept and say nothing, to stop in the middle of an
  answer and to close their listening socket: a ready-made server allows none of that."
  (:require [clojure.string :as str])
  (:import [java.io BufferedInputStream BufferedOutputStream ByteArrayOutputStream EOFException
            InputStream OutputStream]
           [java.net Socket]))

(set! *warn-on-reflection* true)

(def ^:private head-limit 65536)

(defn- read-head
  "The bytes up to the empty line as text; nil where the peer has closed between two requests."
  [^InputStream in]
  (let [out (ByteArrayOutputStream.)]
    (loop [seen 0]
      (let [b (.read in)]
        (cond
          (neg? b) (when (pos? (.size out)) (throw (EOFException. "closed inside a request head")))
          (< head-limit (.size out)) (throw (ex-info "request head too large" {}))
          :else
          (let [seen (if (= b (int (nth "\r\n\r\n" seen))) (inc seen) (if (= b 13) 1 0))]
            (.write out b)
            (if (= 4 seen) (.toString out "ISO-8859-1") (recur seen))))))))

(defn- parse-head [^String head]
  (let [[start & fields] (str/split-lines head)
        [method target] (str/split start #" ")
        [uri query] (str/split (str target) #"\?" 2)]
    {:request-method (keyword (str/lower-case method))
     :target target
     :uri uri
     :query-string query
     :headers (into {}
                    (keep #(let [[k v] (str/split % #":" 2)]
                             (when v [(str/lower-case (str/trim k)) (str/trim v)])))
                    fields)}))

(defn- read-request [^InputStream in]
  (when-let [head (read-head in)]
    (let [{:keys [headers] :as request} (parse-head head)
          length (parse-long (get headers "content-length" "0"))
          body (.readNBytes in (int length))]
      (when (< (alength body) length)
        (throw (EOFException. "closed inside a request body")))
      (assoc request :body body))))

(defn- write-chunk [^OutputStream out ^bytes body from to]
  (.write out (.getBytes (str (Long/toHexString (- to from)) "\r\n")))
  (.write out body (int from) (int (- to from)))
  (.write out (.getBytes "\r\n")))

(defn- write-body
  "The whole body, or in two chunks with a pause of `pause-ms` between them."
  [^OutputStream out ^bytes body pause-ms]
  (if-not pause-ms
    (.write out body)
    (let [end (alength body), middle (quot end 2)]
      (write-chunk out body 0 middle)
      (.flush out)
      (Thread/sleep (long pause-ms))
      (write-chunk out body middle end)
      (.write out (.getBytes "0\r\n\r\n")))))

(defn- write-response [^OutputStream out {:keys [status type body headers pause-ms]}]
  (let [^bytes body (if (string? body) (.getBytes ^String body "UTF-8") (or body (byte-array 0)))
        head (str "HTTP/1.1 " status " " (if (< status 400) "OK" "Error") "\r\n"
                  "Content-Type: " (or type "text/plain") "\r\n"
                  (apply str (for [[k v] headers] (str k ": " v "\r\n")))
                  (if pause-ms "Transfer-Encoding: chunked" (str "Content-Length: " (alength body)))
                  "\r\n\r\n")]
    (.write out (.getBytes head "ISO-8859-1"))
    (write-body out body pause-ms)
    (.flush out)))

(defn converse
  "Answers the requests on `socket` with `(handle request)` until one side has had enough; a nil
  answer ends the connection. An end in mid-request is an ordinary event here, not an error."
  [^Socket socket handle]
  (try
    (with-open [socket socket]
      (.setTcpNoDelay socket true)
      (let [in (BufferedInputStream. (.getInputStream socket) 65536)
            out (BufferedOutputStream. (.getOutputStream socket) 65536)]
        (loop []
          (when-let [request (read-request in)]
            (when-let [response (handle request)]
              (write-response out response)
              (recur))))))
    (catch java.io.IOException _ nil)))

(defn in-thread
  "Runs `f` in a daemon thread of its own; what it throws is printed, never swallowed."
  [name f]
  (doto (Thread. ^Runnable (fn [] (try (f) (catch Throwable t (.printStackTrace t)))) (str name))
    (.setDaemon true)
    (.start)))
