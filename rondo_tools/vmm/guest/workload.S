/*
 * rondo's built-in guest: a workload of CPU loops, halts and block requests, for the VMM to measure.
 *
 * 32-bit protected mode with flat 4 GiB segments, paging off, 80486 integer instructions, interrupts
 * never enabled, no IDT. It is entered at its first byte with a stack, and has no clock: it reads a work
 * item from the workload port, does it, and reads the next one. The assembler's command line defines the
 * addresses of rondo_tools/vmm/layout.py: COM1, I8042, WORKLOAD, POWER, VIRTIO_BLOCK.
 *
 * ebp = the phase printed last; all other registers are scratch.
 */
        .intel_syntax noprefix
        .code32
        .arch   i486

/* virtio-mmio registers (virtio 1.2, 4.2.2) and their values */
        MAGIC            = VIRTIO_BLOCK + 0x000
        VERSION          = VIRTIO_BLOCK + 0x004
        DEVICE_ID        = VIRTIO_BLOCK + 0x008
        DEVICE_FEATURES  = VIRTIO_BLOCK + 0x010
        DEVICE_FEAT_SEL  = VIRTIO_BLOCK + 0x014
        DRIVER_FEATURES  = VIRTIO_BLOCK + 0x020
        DRIVER_FEAT_SEL  = VIRTIO_BLOCK + 0x024
        QUEUE_SEL        = VIRTIO_BLOCK + 0x030
        QUEUE_NUM_MAX    = VIRTIO_BLOCK + 0x034
        QUEUE_NUM        = VIRTIO_BLOCK + 0x038
        QUEUE_READY      = VIRTIO_BLOCK + 0x044
        QUEUE_NOTIFY     = VIRTIO_BLOCK + 0x050
        INTERRUPT_STATUS = VIRTIO_BLOCK + 0x060
        INTERRUPT_ACK    = VIRTIO_BLOCK + 0x064
        STATUS           = VIRTIO_BLOCK + 0x070
        QUEUE_DESC       = VIRTIO_BLOCK + 0x080
        QUEUE_DESC_HIGH  = VIRTIO_BLOCK + 0x084
        QUEUE_DRV        = VIRTIO_BLOCK + 0x090
        QUEUE_DRV_HIGH   = VIRTIO_BLOCK + 0x094
        QUEUE_DEV        = VIRTIO_BLOCK + 0x0a0
        QUEUE_DEV_HIGH   = VIRTIO_BLOCK + 0x0a4
        CAPACITY         = VIRTIO_BLOCK + 0x100  /* sectors, 64 bits */
        CAPACITY_HIGH    = VIRTIO_BLOCK + 0x104

        ACKNOWLEDGE = 1
        DRIVER      = 2
        DRIVER_OK   = 4
        FEATURES_OK = 8
        NEEDS_RESET = 64

        FLUSH     = 1 << 9                       /* VIRTIO_BLK_F_FLUSH, in bits 0-31 */
        VERSION_1 = 1 << 0                       /* VIRTIO_F_VERSION_1, in bits 32-63 */

        BLK_IN    = 0                            /* request types */
        BLK_OUT   = 1
        BLK_FLUSH = 4

        QUEUE_SIZE = 8
        NEXT       = 1                           /* descriptor flags */
        WRITABLE   = 2

/* the faults that the guest reports: the keys of FAULTS in devices/workload.py */
        FAULT_DEVICE   = 1
        FAULT_FEATURES = 2
        FAULT_QUEUE    = 3
        FAULT_REQUEST  = 4
        FAULT_DATA     = 5

        .text
        .globl  start
start:
        cld
        or      ebp, -1                         /* no phase yet */
        mov     esi, offset say_up
        call    print
        call    disk_setup

/* One round: ask, say so if the phase is a new one, work. */
round:
        mov     edx, WORKLOAD
        in      eax, dx
        mov     ecx, eax
        shr     ecx, 8                          /* count */
        mov     ebx, eax
        shr     ebx, 4
        and     ebx, 15                         /* work */
        and     eax, 15                         /* phase */
        cmp     eax, ebp
        je      1f
        mov     ebp, eax
        mov     esi, [say_phase + eax * 4]
        call    print
1:      call    [do_work + ebx * 4]
        jmp     round

/* CPU: ecx steps of a linear congruential generator. */
work_cpu:
        imul    eax, eax, 1664525
        add     eax, 1013904223
        dec     ecx
        jnz     work_cpu
        ret

/* Idle: ecx halts. No interrupt will ever end one; the VMM does. */
work_idle:
        hlt
        dec     ecx
        jnz     work_idle
        ret

/* I/O: ecx times write a sector, read it back, compare; a flush after each eighth. */
work_io:
        push    ecx
        mov     eax, pairs
        inc     eax
        mov     pairs, eax
        xor     edx, edx                        /* the sector: one after another, around the disk */
        div     dword ptr sectors
        mov     header_sector, edx

        mov     eax, pairs                      /* a pattern that changes from pair to pair, word to word */
        imul    eax, eax, 0x9e3779b1
        mov     edi, offset written
        mov     ecx, 128
1:      stosd
        add     eax, 0x61c88647
        loop    1b

        mov     eax, BLK_OUT
        mov     edx, 1
        call    request
        mov     eax, BLK_IN
        mov     edx, 3
        call    request

        mov     esi, offset written
        mov     edi, offset read_back
        mov     ecx, 128
        repe    cmpsd
        mov     eax, FAULT_DATA
        jne     fault

        test    byte ptr pairs, 7
        jnz     2f
        xor     eax, eax
        mov     header_sector, eax              /* a flush concerns no sector */
        mov     al, BLK_FLUSH
        mov     edx, 2
        call    request
2:      pop     ecx
        dec     ecx
        jnz     work_io
        ret

/*
 * One request from start to end: eax = its type, edx = the descriptor after the header's. There is
 * never more than one on the way, and its chain begins at descriptor 0: the available ring holds
 * zeros, which is what it must hold.
 */
request:
        mov     header_type, eax
        mov     header_next, dx
        mov     byte ptr status, 0xff
        inc     word ptr available_index
        xor     eax, eax
        mov     ds:[QUEUE_NOTIFY], eax
1:      mov     ax, available_index
        cmp     ax, used_index
        je      2f
        mov     eax, ds:[STATUS]                     /* not done yet: will it ever be? */
        test    al, NEEDS_RESET
        jz      1b
        jmp     3f
2:      mov     eax, ds:[INTERRUPT_STATUS]           /* nobody listens, but an interrupt wants its answer */
        mov     ds:[INTERRUPT_ACK], eax
        cmp     byte ptr status, 0
        jne     3f
        ret
3:      mov     eax, FAULT_REQUEST
        jmp     fault

/* virtio 1.2, 3.1.1: the driver's part of the initialization, in its order. */
        .macro  set register, value:vararg
        mov     dword ptr ds:[\register], \value
        .endm

disk_setup:
        mov     ebx, FAULT_DEVICE
        cmp     dword ptr ds:[MAGIC], 0x74726976     /* "virt" */
        jne     setup_fault
        cmp     dword ptr ds:[VERSION], 2
        jne     setup_fault
        cmp     dword ptr ds:[DEVICE_ID], 2
        jne     setup_fault
        set     STATUS, 0
        set     STATUS, ACKNOWLEDGE
        set     STATUS, ACKNOWLEDGE | DRIVER

        inc     ebx                             /* FAULT_FEATURES */
        set     DEVICE_FEAT_SEL, 0
        test    dword ptr ds:[DEVICE_FEATURES], FLUSH
        jz      setup_fault
        set     DEVICE_FEAT_SEL, 1
        test    dword ptr ds:[DEVICE_FEATURES], VERSION_1
        jz      setup_fault
        set     DRIVER_FEAT_SEL, 0
        set     DRIVER_FEATURES, FLUSH
        set     DRIVER_FEAT_SEL, 1
        set     DRIVER_FEATURES, VERSION_1
        set     STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK
        test    dword ptr ds:[STATUS], FEATURES_OK   /* the device has the last word */
        jz      setup_fault

        inc     ebx                             /* FAULT_QUEUE */
        set     QUEUE_SEL, 0
        cmp     dword ptr ds:[QUEUE_READY], 0
        jne     setup_fault
        cmp     dword ptr ds:[QUEUE_NUM_MAX], QUEUE_SIZE
        jb      setup_fault
        set     QUEUE_NUM, QUEUE_SIZE
        set     QUEUE_DESC, offset descriptors
        set     QUEUE_DESC_HIGH, 0
        set     QUEUE_DRV, offset available
        set     QUEUE_DRV_HIGH, 0
        set     QUEUE_DEV, offset used
        set     QUEUE_DEV_HIGH, 0
        set     QUEUE_READY, 1
        cmp     dword ptr ds:[QUEUE_READY], 1
        jne     setup_fault
        set     STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK

        mov     eax, ds:[CAPACITY]                   /* of a disk beyond 2 TiB the rest is left alone */
        cmp     dword ptr ds:[CAPACITY_HIGH], 0
        je      1f
        or      eax, -1
1:      test    eax, eax
        jz      setup_fault
        mov     sectors, eax
        ret
setup_fault:
        mov     eax, ebx

/* Report eax, say so, and end. */
fault:
        mov     edx, WORKLOAD
        out     dx, eax
        mov     esi, offset say_fault
        call    print

/* ACPI S5; should that not work, a reset; should that not work either, a triple fault. */
power_off:
        mov     edx, POWER
        mov     al, 0x34                        /* SLP_TYP 5, SLP_EN */
        out     dx, al
        mov     edx, I8042 + 4
        mov     al, 0xfe
        out     dx, al
        hlt
        ud2

/* Print the string at esi, up to its zero, on the serial port. */
print:
        lodsb
        test    al, al
        jz      2f
        mov     ah, al
        mov     edx, COM1 + 5
1:      in      al, dx
        test    al, 0x20                        /* room in the transmitter? */
        jz      1b
        mov     al, ah
        mov     edx, COM1
        out     dx, al
        jmp     print
2:      ret

do_work:
        .long   power_off, work_cpu, work_idle, work_io
say_phase:
        .long   say_off, say_cpu, say_idle, say_io, say_mixed
say_up:         .asciz  "rondo guest: up\n"
say_cpu:        .asciz  "phase: cpu\n"
say_idle:       .asciz  "phase: idle\n"
say_io:         .asciz  "phase: io\n"
say_mixed:      .asciz  "phase: mixed\n"
say_off:        .asciz  "power off\n"
say_fault:      .asciz  "fault\n"

/*
 * The virtqueue (virtio 1.2, 2.7). Three chains share header and status: 0-1-2 writes, 0-3-2 reads,
 * 0-2 flushes; `request` sets which one by the header's next field.
 */
        .data
        .balign 16
        .macro  descriptor address, length, flags, next
        .long   \address, 0, \length
        .word   \flags, \next
        .endm
descriptors:
        descriptor header, 16, NEXT, 0
        descriptor written, 512, NEXT, 2
        descriptor status, 1, WRITABLE, 0
        descriptor read_back, 512, NEXT | WRITABLE, 2
        .set    header_next, descriptors + 14

/* Memory that starts as zeros, and is no part of the file. */
        .bss
        .zero   (QUEUE_SIZE - 4) * 16           /* the descriptors that nobody uses */
        .balign 16
available:                                      /* flags, index, ring, event */
        .zero   6 + 2 * QUEUE_SIZE
        .set    available_index, available + 2
        .balign 16
used:
        .zero   6 + 8 * QUEUE_SIZE
        .set    used_index, used + 2
        .balign 16
header:                                         /* type, reserved, sector */
        .zero   16
        .set    header_type, header
        .set    header_sector, header + 8
status: .zero   1
        .balign 16
sectors: .zero  4
pairs:  .zero   4
        .balign 16
written:
        .zero   512
read_back:
        .zero   512
