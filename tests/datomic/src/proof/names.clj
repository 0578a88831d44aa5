(ns proof.names
  "A DNS server that knows every name: as the addresses of all zones, as a peered entry name is."
  (:require [proof.http :as http])
  (:import [java.net DatagramPacket DatagramSocket InetAddress InetSocketAddress]
           [java.nio ByteBuffer]))

(set! *warn-on-reflection* true)

(defn- question-end
  "Where the first question of a query ends: behind the labels, their zero, type and class."
  [^bytes query]
  (loop [at 12]
    (let [length (bit-and 0xff (aget query at))]
      (if (zero? length) (+ at 5) (recur (+ at 1 length))))))

(defn- answer
  "A records for a question of type A, none for others; the question's name by reference."
  ^bytes [^bytes query ips]
  (let [end (int (question-end query))
        ips (when (= 1 (aget query (- end 3))) ips)
        out (ByteBuffer/allocate 512)]
    (.put out query 0 2)
    (run! #(.putShort out (unchecked-short %)) [0x8180 1 (count ips) 0 0])
    (.put out query 12 (- end 12))
    (doseq [ip ips]
      (run! #(.putShort out (unchecked-short %)) [0xc00c 1 1 0 5 4])
      (.put out (.getAddress (InetAddress/getByName ip))))
    (java.util.Arrays/copyOf (.array out) (.position out))))

(defn serve
  "Answers for `ips` on a UDP port of loopback; returns the port."
  [ips]
  (let [socket (DatagramSocket. (InetSocketAddress. "127.0.0.1" 0))]
    (http/in-thread "names"
                    #(while true
                       (let [packet (DatagramPacket. (byte-array 512) 512)
                             _ (.receive socket packet)
                             bytes (answer (.getData packet) ips)]
                         (.send socket (DatagramPacket. bytes (alength bytes) (.getSocketAddress packet))))))
    (.getLocalPort socket)))
